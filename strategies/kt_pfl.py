"""KT-pFL-style: learn whom each client should listen to (Zhang et al., NeurIPS 2021, arXiv 2111.02862).

The loss, its weight 0.7 and the softmax of five times the coefficients are those of the authors' code, which scales
its step in a way of its own: ours is the reciprocal of the curvature. Their soft labels have the temperature 10; ours
are taken as they come, at the temperature 1 unless a protector softened them.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fedfuse.knowledge import KnowledgeBatch
from fedfuse.strategy import FusionStrategy

SHARPNESS = 5.0


class KTpFL(FusionStrategy):
    r"""KT-pFL-style: fuse for each client by knowledge coefficients, which take one gradient step a round.

    Client n gets :math:`t_n = \sum_m c_{nm} p_m`, at first the plain mean. Afterwards, for the next round,

    .. math:: c_n \leftarrow softmax\left(5 \left(c_n - \eta \nabla
              \left(MSE(p_n, t_n) + \rho\, MSE(c_n, 1/N)\right)\right)\right)

    With many more than five clients the softmax alone draws the coefficients towards the mean, with fewer away from
    it. Those of clients that are away stay; a new client counts as much as the others do on average. Fusion space:
    probability.

    Parameters
    ----------
    regularisation : float
        :math:`\rho`, not negative: how strongly the coefficients are held near ``1 / N``.
    """

    sends = returns = frozenset({"soft_labels"})

    def __init__(self, regularisation: float = 0.7) -> None:
        if not (math.isfinite(regularisation) and regularisation >= 0):
            raise ValueError(f"regularisation={regularisation} must be finite and not negative")
        self.regularisation = regularisation
        # Of all clients seen so far, in order of arrival; each coefficient times their number, so that 1 is the mean.
        self.clients: list[int] = []
        self.coefficients = torch.ones(0, 0, dtype=torch.float64)

    def relate(self, knowledge: KnowledgeBatch) -> Tensor:
        """Return the coefficients of this round's clients, ``[N, N]``, and learn those of the next round."""
        rows = self._rows_of(knowledge.client_ids)
        block = self.coefficients[rows.unsqueeze(1), rows]
        total = block.sum(1, keepdim=True)
        coefficients = block / total
        self.coefficients[rows.unsqueeze(1), rows] = total * self._step(coefficients, knowledge)
        return coefficients

    def _step(self, coefficients: Tensor, knowledge: KnowledgeBatch) -> Tensor:
        mask = knowledge.mask.double()
        number, _, num_classes = knowledge.soft_labels.shape
        # Less 1 / C, which cancels out of the gradient, so that two clients without a common sample are unrelated.
        centred = ((knowledge.soft_labels.double() - 1 / num_classes) * mask.unsqueeze(2)).flatten(1)
        products = centred @ centred.T / (num_classes * (mask @ mask.T).clamp_min(1))
        # Half the gradient and half the curvature.
        gradient = coefficients @ products - products + self.regularisation * (coefficients - 1 / number) / number
        curvature = torch.linalg.matrix_norm(products, 2) + self.regularisation / number
        step = gradient / curvature.clamp_min(torch.finfo(curvature.dtype).tiny)
        return torch.softmax(SHARPNESS * (coefficients - step), dim=1)

    def _rows_of(self, client_ids: Sequence[int]) -> Tensor:
        row_of = {client_id: row for row, client_id in enumerate(self.clients)}
        for client_id in client_ids:
            row_of.setdefault(client_id, len(row_of))
        # Always new ones: what `state_dict` returned must stay as it is.
        known, self.clients = self.coefficients, list(row_of)
        self.coefficients = torch.ones(len(row_of), len(row_of), dtype=torch.float64)
        self.coefficients[: len(known), : len(known)] = known
        return torch.tensor([row_of[client_id] for client_id in client_ids])

    def state_dict(self) -> dict[str, Any]:
        """Return the clients seen so far and their coefficients."""
        return {"clients": self.clients, "coefficients": self.coefficients}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self.clients, self.coefficients = state["clients"], state["coefficients"]
