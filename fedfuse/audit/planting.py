"""Change the data of a federation before a run: more training samples for one client, more transfer samples for all."""

from dataclasses import replace

import torch
from torch import Tensor

from fedfuse.data.federation import Federation, TransferSet
from fedfuse.data.samples import Samples, as_numbers


def with_training_samples(federation: Federation, client: int, inputs: Tensor, labels: Tensor) -> Federation:
    """Append samples to what one client trains on.

    Parameters
    ----------
    federation : Federation
        Stays as it is.
    client : int
        The client's id.
    inputs : Tensor
        ``[n, *shape]``, of the type of the client's own: floating point, or uint8.
    labels : Tensor
        int64 ``[n]``.
    """
    own = federation.clients[client]
    train = Samples(torch.cat([own.train.inputs, inputs]), torch.cat([own.train.labels, labels]))
    clients = (*federation.clients[:client], replace(own, train=train), *federation.clients[client + 1 :])
    return replace(federation, clients=clients)


def with_probes(federation: Federation, inputs: Tensor) -> tuple[Federation, Tensor]:
    """Append samples to the transfer set, so that every client is asked for its answers to them.

    Parameters
    ----------
    federation : Federation
        Stays as it is.
    inputs : Tensor
        ``[n, *shape]``, floating point or uint8.

    Returns
    -------
    federation : Federation
        With the longer transfer set, whose digest is another one.
    rows : Tensor
        int64 ``[n]``: which rows of the transfer set these samples are.
    """
    transfer = federation.shared.transfer
    rows = len(transfer) + torch.arange(len(inputs))
    domains = transfer.domains
    if domains is not None:  # probes are of no domain; they take turns, so that each domain has its share
        domains = torch.cat([domains, domains[torch.arange(len(inputs)) % len(domains)]])
    probes = as_numbers(inputs, transfer.inputs.dtype)
    longer = TransferSet(torch.cat([transfer.inputs, probes]), domains)
    return replace(federation, shared=replace(federation.shared, transfer=longer)), rows
