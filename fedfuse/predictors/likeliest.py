"""Choose among ways to answer by what each gives to the labels of held-out samples."""

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from fedfuse.fusion import SMALLEST_PROBABILITY

Candidate = TypeVar("Candidate")
# Log-likelihoods that differ by less than this differ by rounding alone.
ROUNDED_OFF = 1e-9


def likeliest(candidates: Sequence[Candidate], answers: Sequence[Tensor], labels: Tensor) -> Candidate:
    """Return the candidate under which the labels are the likeliest.

    Parameters
    ----------
    candidates : Sequence
        The preferred ones first: of those that are equally good, and without samples, the first is taken.
    answers : Sequence[Tensor]
        For each candidate the probabilities ``[v, C]`` of the samples, float64. Below `SMALLEST_PROBABILITY` they
        count as that, so that no single sample decides alone.
    labels : Tensor
        int64 ``[v]``.
    """
    given = torch.stack([probabilities.gather(1, labels.unsqueeze(1)) for probabilities in answers])
    scores = torch.log(given.clamp_min(SMALLEST_PROBABILITY)).sum((1, 2)).tolist()
    best = max(scores)
    return next(one for one, score in zip(candidates, scores, strict=True) if score >= best - ROUNDED_OFF)
