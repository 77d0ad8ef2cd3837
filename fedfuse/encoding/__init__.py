"""How soft labels are written into messages, chosen by name from ``configs/encoding``."""
