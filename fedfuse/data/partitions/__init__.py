"""Ways to share samples out among clients.

A partition is a function of what is known of the samples (`Population`) that returns, for each client, the positions of
its samples, in random order. No sample goes to two clients, and every client has at least ``min_samples``. Where Flower
Datasets has a partitioner for it, that one decides.
"""
