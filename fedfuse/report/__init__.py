"""Tables, figures and the live display."""
