"""The files that runs are configured from."""
