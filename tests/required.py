"""What shipped strategies leave to the user, in overrides by name; with noise that the seed decides."""

REQUIRED = {"gnmax": ["strategy.sigma=0.5", "privacy.secure_rng=false"]}
