"""The kinds of knowledge that travel."""
