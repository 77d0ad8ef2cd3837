"""Sources, partitions, and the federation of a run."""
