"""Correct an answer that is for everybody by how often the client has each class."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedfuse.models.outputs import Outputs
from fedfuse.predictors.fused_head import fused_logits
from fedfuse.predictors.likeliest import likeliest
from fedfuse.predictors.predictor import FUSED_HEAD, VALIDATION_OUTPUTS, Answer, Own

HEADS = ("plain", "fused")
VALIDATION = "validation"
# The weakest first: of equally likely ones the weaker correction.
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)


@dataclass(frozen=True)
class PriorCorrected:
    r"""An answer for everybody, corrected by how often the client has each class: Bayes' rule with its own prior.

    .. math:: P = softmax(\log p + s \log \pi), \quad \pi_c = \frac{n_c + \lambda}{n + C \lambda}

    With p the answer of one head and :math:`n_c` the client's number of training samples of class c. A head that
    learnt from evenly many samples of all classes calls for a strength s of 1; one that learnt from the client's own
    labels knows part of their prior already, and calls for less.

    Parameters
    ----------
    head : str
        Which head's answer is corrected: ``"plain"``, or ``"fused"``, that of a second head.
    smoothing : float
        lambda, above 0: how many samples of each class are added to the counts, so that no class is ruled out.
    strength : float or str
        s, not negative; or ``"validation"``: that of 0, 0.25, ... 1.5 under which the labels of the client's
        validation samples are the likeliest, the smaller of equally likely ones, so 0 without such samples.

    Raises
    ------
    ValueError
        If the head is unknown, or a number is out of its range.
    """

    head: str = "plain"
    smoothing: float = 1.0
    strength: float | str = VALIDATION
    tells_labels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.head not in HEADS:
            raise ValueError(f"head={self.head} must be {' or '.join(HEADS)}")
        if not (math.isfinite(self.smoothing) and self.smoothing > 0):
            raise ValueError(f"smoothing={self.smoothing} must be positive and finite")
        number = isinstance(self.strength, int | float) and not isinstance(self.strength, bool)
        if self.strength != VALIDATION and not (number and 0 <= float(self.strength) < math.inf):
            raise ValueError(f"strength={self.strength} must be a finite number of at least 0, or {VALIDATION}")

    @property
    def needs(self) -> frozenset[str]:
        """Return the second head where its answer is corrected, and validation samples where they decide."""
        head = {FUSED_HEAD} if self.head == "fused" else set()
        return frozenset(head | ({VALIDATION_OUTPUTS} if isinstance(self.strength, str) else set()))

    def fit(self, own: Own) -> Answer:
        """Return the answer, corrected by the client's own prior."""
        counts = torch.bincount(own.labels, minlength=own.num_classes).double()
        log_prior = torch.log((counts + self.smoothing) / (counts + self.smoothing).sum())
        strength = self._find(own, log_prior)
        return lambda outputs, inputs: _corrected(self._logits(outputs), strength * log_prior)

    def _find(self, own: Own, log_prior: Tensor) -> float:
        if not isinstance(self.strength, str):
            return self.strength
        assert own.validation is not None, "the predictor needs what the model makes of validation samples"
        logits = self._logits(own.validation).double()
        answers = [_corrected(logits, strength * log_prior) for strength in STRENGTHS]
        return likeliest(STRENGTHS, answers, own.validation_labels)

    def _logits(self, outputs: Outputs) -> Tensor:
        return fused_logits(outputs) if self.head == "fused" else outputs.logits


def _corrected(logits: Tensor, correction: Tensor) -> Tensor:
    # Logits and log-probabilities differ by a constant in each row, which the softmax removes.
    return torch.softmax(logits + correction.to(logits.dtype), dim=1)
