"""What a client computes: learn, express, protect, absorb, evaluate."""
