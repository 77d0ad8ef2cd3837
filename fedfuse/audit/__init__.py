"""Attacks on the run that has just been made: how much leaked."""
