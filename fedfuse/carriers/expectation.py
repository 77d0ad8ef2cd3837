"""What a client's knowledge must look like, known before it arrives."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Expectation:
    """What the server expects of one client.

    Parameters
    ----------
    client_id : int
        The client that was asked.
    round : int
        The round that it was asked for.
    num_classes : int
        C.
    num_transfer : int
        M, the size of the transfer set.
    rows : Tensor
        Ascending int64 rows of the transfer set that were asked for.
    architecture : str
        The signature of the client's architecture.
    shapes : Mapping[str, torch.Size]
        Its parameters and buffers.
    embedding_size : int
        The width of its features.
    """

    client_id: int
    round: int
    num_classes: int
    num_transfer: int
    rows: Tensor
    architecture: str
    shapes: Mapping[str, torch.Size]
    embedding_size: int
