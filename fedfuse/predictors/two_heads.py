"""Answer with both heads of a model, mixed (DHO, Kang et al., 2025, arXiv 2505.07675)."""

from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import torch
from torch import Tensor

from fedfuse.configuration import CLOSED_FORM
from fedfuse.models.outputs import Outputs
from fedfuse.objectives.closed_form import closed_form_weight
from fedfuse.predictors.fused_head import fused_logits
from fedfuse.predictors.likeliest import likeliest
from fedfuse.predictors.predictor import FUSED_HEAD, VALIDATION_OUTPUTS, Answer, Own

GRID = "grid"
# In twentieths, because the distances of the alphas from one half are exact so.
TWENTIETHS, BETAS = range(21), (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 4.0)
# The first is what is used without validation samples; then by how far alpha is from one half, and beta from 1.
CANDIDATES = [
    (twentieths / 20, beta)
    for twentieths, beta in sorted(product(TWENTIETHS, BETAS), key=lambda pair: (abs(pair[0] - 10), abs(pair[1] - 1)))
]


@dataclass(frozen=True)
class TwoHeads:
    r"""A mixture of the head that learns from the client's own labels and the one that learns from fused knowledge.

    .. math:: P = \alpha \, softmax(z_{own}) + (1 - \alpha) \, softmax(z_{fused} / \beta)

    This is DHO's answer. DHO searches alpha and beta on a grid by validation accuracy, which ten or twenty samples
    cannot tell apart: here the grid is searched by the likelihood of the validation labels. The closed form, not in
    DHO, finds one number where the grid finds two, so it follows the chance of few samples less: it is the default.

    Parameters
    ----------
    weight : float or str
        alpha, from 0 to 1, with beta 1; ``"closed_form"``, alpha by least squares on the client's validation samples
        (see `fedfuse.objectives.closed_form`), brought into 0 to 1, with beta 1; or ``"grid"``, alpha in steps of 0.05
        and beta of 0.5, 0.75, 1, 1.25, 1.5, 2 and 4, and of equally likely ones the alpha nearest one half. Without
        validation samples alpha is 0.5 and beta is 1.

    Raises
    ------
    ValueError
        If the weight is none of these.
    """

    weight: float | str = CLOSED_FORM
    tells_labels: ClassVar[bool] = False

    def __post_init__(self) -> None:
        named = self.weight in (CLOSED_FORM, GRID)
        number = isinstance(self.weight, int | float) and not isinstance(self.weight, bool)
        if not named and not (number and 0 <= float(self.weight) <= 1):
            raise ValueError(f"weight={self.weight} must be a number from 0 to 1, {CLOSED_FORM} or {GRID}")

    @property
    def needs(self) -> frozenset[str]:
        """Return the second head, and what the model makes of validation samples where they decide."""
        return frozenset({FUSED_HEAD, VALIDATION_OUTPUTS} if isinstance(self.weight, str) else {FUSED_HEAD})

    def fit(self, own: Own) -> Answer:
        """Return the mixture with the client's alpha and beta."""
        alpha, beta = self._find(own)

        def answer(outputs: Outputs, inputs: Tensor) -> Tensor:
            from_labels, from_fused = torch.softmax(outputs.logits, 1), torch.softmax(fused_logits(outputs) / beta, 1)
            return alpha * from_labels + (1 - alpha) * from_fused

        return answer

    def _find(self, own: Own) -> tuple[float, float]:
        if not isinstance(self.weight, str):
            return self.weight, 1.0
        assert own.validation is not None, "the predictor needs what the model makes of validation samples"
        from_labels = torch.softmax(own.validation.logits.double(), 1)
        logits = fused_logits(own.validation).double()
        if self.weight == CLOSED_FORM:
            weight = closed_form_weight(from_labels, torch.softmax(logits, 1), own.validation_labels)
            return min(max(weight, 0.0), 1.0), 1.0
        from_fused = {beta: torch.softmax(logits / beta, 1) for beta in BETAS}
        answers = [alpha * from_labels + (1 - alpha) * from_fused[beta] for alpha, beta in CANDIDATES]
        return likeliest(CANDIDATES, answers, own.validation_labels)
