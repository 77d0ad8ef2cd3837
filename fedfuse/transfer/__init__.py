"""Which transfer samples carry knowledge in a round."""
