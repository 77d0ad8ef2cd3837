"""Small records of rounds for the tests of what is written and reported."""

import numpy as np

from fedfuse.metrics import ClientMetrics, RoundRecord


def client(client_id, personal=None, general=None, validation=None, loss=None):
    return ClientMetrics(client_id, personal, general, validation, loss)


def record(number, clients, relevance=None, left_out=(), bytes_up=100, bytes_down=300, learn=0.5):
    ids = tuple(one.client_id for one in clients) if relevance is not None else ()
    seconds = {"learn": learn, "round": 2 * learn}
    return RoundRecord(number, tuple(clients), left_out, bytes_up, bytes_down, seconds, relevance, ids)


def rounds(numbers, num_clients=2):
    """Rounds in which every accuracy differs."""
    return [
        record(
            number,
            [client(i, number / 10, number / 20 + i / 100, 0.5, 1.0) for i in range(num_clients)],
            relevance=np.full((num_clients, num_clients), 1 / num_clients, np.float32) * number,
        )
        for number in numbers
    ]
