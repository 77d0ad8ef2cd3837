"""Which client gets which model, where it is said client by client."""

import re
from collections.abc import Mapping

from fedfuse.errors import ConfigurationError

OTHERS = "others"


def assign(models: Mapping[object, object], num_clients: int) -> list[object]:
    """Spread out a mapping such as ``{0: lenet, 1-3: resnet8, others: mlp_small}``.

    Parameters
    ----------
    models : Mapping
        From a client id, a range of them (both ends are meant), or ``others``, to a model.
    num_clients : int
        How many clients there are.

    Returns
    -------
    list
        The model of each client.

    Raises
    ------
    ConfigurationError
        If a key is none of these, names a client that does not exist or one that has a model already, or if a client
        is left without a model.
    """
    given: dict[int, object] = {}
    for key, model in models.items():
        if key == OTHERS:
            continue
        ends = re.fullmatch(r"(\d+)(?:-(\d+))?", str(key))
        if ends is None:
            raise ConfigurationError(
                f"model {{{key}: ...}}: a key must be a client id, a range such as 1-3, or {OTHERS}; "
                "{name: NAME, key: value} changes one model for all."
            )
        first, last = int(ends[1]), int(ends[2] or ends[1])
        for client in range(first, last + 1):
            if client >= num_clients:
                raise ConfigurationError(
                    f"model {{{key}: ...}}: there is no client {client}; num_clients={num_clients}."
                )
            if client in given:
                raise ConfigurationError(f"model {{{key}: ...}}: client {client} has a model already.")
            given[client] = model
    without = [client for client in range(num_clients) if client not in given]
    if without and OTHERS not in models:
        raise ConfigurationError(f"model names none for client {without[0]}; add {{{OTHERS}: NAME}}.")
    return [given.get(client, models.get(OTHERS)) for client in range(num_clients)]
