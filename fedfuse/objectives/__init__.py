"""The losses that clients learn with, one a file."""
