"""Federated knowledge fusion: clients of any model and any data share what they know, not what they have."""

import os

# Flower reports every run to its makers unless told not to, and reads this when it is imported.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")

__version__ = "0.1.0"
