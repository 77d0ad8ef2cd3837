"""Answer only where the client knows something: flattened on samples that are unlike its own."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedfuse.models.outputs import Outputs
from fedfuse.predictors.predictor import DENSITY, Answer, Own


@dataclass(frozen=True)
class Familiar:
    r"""The softmax of the model's logits, mixed with evenness on samples that are unlike the client's own.

    .. math:: P = s\, p + (1 - s) / C, \qquad s(x) = \sigma\left(\frac{l(x) - q}{\tau}\right)

    with l the log-density of the sample under the client's training data (see `fedfuse.client.density`) and q a low
    quantile of the log-densities of these data themselves, each sample judged by the others. So the soft labels alone
    tell how much a client knows of a sample, and whoever weighs answers by certainty hears those who know. They tell
    also which samples resemble the client's data, though less exactly than the densities would. A client with fewer
    than two samples answers evenly.

    Parameters
    ----------
    quantile : float
        Which share of the client's own samples counts as less familiar than the threshold q, from 0 to 1.
    scale : float
        tau, positive, in nats: how gradually an answer flattens below q.

    Raises
    ------
    ValueError
        If a number is out of range.
    """

    quantile: float = 0.1
    scale: float = 3.0
    needs: ClassVar[frozenset[str]] = frozenset({DENSITY})
    tells_labels: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 <= self.quantile <= 1:
            raise ValueError(f"quantile={self.quantile} must be from 0 to 1")
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise ValueError(f"scale={self.scale} must be positive and finite")

    def fit(self, own: Own) -> Answer:
        """Return the answer that is flat where the client's own samples are not."""
        density = own.density
        assert density is not None, "the predictor needs the density of the client's data"
        known = own.own_densities
        threshold = torch.quantile(known, self.quantile) if len(known) else torch.tensor(math.inf)

        def answer(outputs: Outputs, inputs: Tensor) -> Tensor:
            probabilities = torch.softmax(outputs.logits, dim=1)
            familiarity = torch.sigmoid((density(inputs) - threshold) / self.scale).to(probabilities.dtype).unsqueeze(1)
            return familiarity * probabilities + (1 - familiarity) / probabilities.shape[1]

        return answer
