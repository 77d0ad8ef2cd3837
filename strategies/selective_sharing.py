"""Selective sharing in both directions, by reliability on each sample (after Zhu et al., ICCV 2023, arXiv 2307.12574).

There, two students of different kinds choose for each region and pixel who teaches whom, by their loss on the true
labels; of it we read the abstract. Here the transfer set has no labels: the margin stands for the loss, all previous
answers for the peer, and the server applies both gates.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fedfuse.fusion import mix
from fedfuse.knowledge import Fused, KnowledgeBatch
from fedfuse.server import Server
from fedfuse.strategy import FusionStrategy


class SelectiveSharing(FusionStrategy):
    """Selective sharing: on each sample whoever is more reliable teaches the other, the consensus or a client.

    Reliability is the margin, the largest probability less the second largest. A client's answer counts only where its
    margin is above that of the sample's previous consensus; the new one is the mean of the answers that count, or the
    previous where none does. A client then gets those samples on which the consensus has a larger margin than its own
    answer. Fusion space: probability.

    The first gate saves no bytes, because clients answer before the server compares; the second does. Both are as good
    as the clients' margins are calibrated.
    """

    sends = returns = frozenset({"soft_labels"})

    def __init__(self) -> None:
        self.consensus: Tensor | None = None  # [M, C], uniform where nobody has answered yet

    def fuse(self, knowledge: KnowledgeBatch, server: Server) -> Fused:
        """Let the reliable answers make the consensus, and give it to those that are less reliable."""
        soft_labels, mask = knowledge.soft_labels, knowledge.mask
        number, _, num_classes = soft_labels.shape
        if self.consensus is None:
            self.consensus = torch.full_like(soft_labels[0], 1 / num_classes)
        margins = _margin(soft_labels).where(mask, 0)
        teaches = mask & (margins > _margin(self.consensus))
        mixed, taught = mix(soft_labels, teaches, torch.ones(1, number))
        self.consensus = torch.where(taught[0].unsqueeze(1), mixed[0], self.consensus.to(mixed.dtype))

        learns = mask.any(0) & (_margin(self.consensus) > margins)
        # Who taught what each client learns; a consensus that stayed has no teacher, and who learns nothing has itself.
        shares = teaches.double() / teaches.sum(0).clamp_min(1)
        heard = learns.double() @ shares.T
        total = heard.sum(1, keepdim=True)
        relevance = torch.where(total > 0, heard / total.clamp_min(1e-12), torch.eye(number, dtype=torch.float64))
        tensors = {"soft_labels": self.consensus.expand_as(soft_labels), "mask": learns}
        return Fused.for_each(knowledge.client_ids, relevance=relevance, soft_labels=tensors)

    def state_dict(self) -> dict[str, Any]:
        """Return the last consensus on each sample."""
        return {"consensus": self.consensus}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self.consensus = state["consensus"]


def _margin(soft_labels: Tensor) -> Tensor:
    """Return the largest probability less the second largest, ``[...]`` of ``[..., C]``."""
    largest = soft_labels.topk(2, dim=-1).values
    return largest[..., 0] - largest[..., 1]
