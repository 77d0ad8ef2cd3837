"""Where data come from: sets by name, the hub, files of a user's own, and made ones."""
