"""fedfuse: federated knowledge fusion."""

__version__ = "0.1.0"
