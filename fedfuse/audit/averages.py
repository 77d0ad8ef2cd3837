"""What a client answers on average: noise of one round is not that of the next."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fedfuse.audit.audit import Answers


def mean_answers(answers: Sequence[Answers], num_transfer: int, num_classes: int) -> Tensor:
    """Average soft labels over rounds, which averages out noise: float64 ``[M, C]``, uniform where there are none."""
    total = torch.zeros(num_transfer, num_classes, dtype=torch.float64)
    times = torch.zeros(num_transfer, 1, dtype=torch.float64)
    for rows, soft_labels in answers:
        total[rows] += soft_labels.double()
        times[rows] += 1
    return torch.where(times > 0, total / times.clamp_min(1), 1 / num_classes)
