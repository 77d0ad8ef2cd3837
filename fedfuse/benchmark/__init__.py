"""The benchmark: the same work done by fedfuse, a plain loop over clients, Flower's Ray runtime and pfl-research."""
