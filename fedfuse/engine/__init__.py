"""How the work of clients is executed."""
