"""Dempster-Shafer fusion: soft labels as discounted evidence (standard theory: Shafer, 1976)."""

import torch
from torch import Tensor

from fedfuse.knowledge import Fused, KnowledgeBatch
from fedfuse.server import Server
from fedfuse.strategy import FusionStrategy

RELIABILITIES = ("constant", "entropy")
RULES = ("dempster", "yager", "murphy")


class DempsterShafer(FusionStrategy):
    r"""Dempster-Shafer: combine the clients' answers as independent evidence, discounted by reliability.

    Client n with reliability :math:`r_n` puts the mass :math:`r_n p_n(k)` on class k and the rest, :math:`1 - r_n`, on
    "any class". With such masses Dempster's rule has a closed form (multiply commonalities):

    .. math:: u(k) = \prod_n (r_n p_n(k) + 1 - r_n) - u(any), \quad u(any) = \prod_n (1 - r_n)

    and the conflict is :math:`\kappa = 1 - u(any) - \sum_k u(k)`. Clients get the pignistic probabilities: each class
    has its own mass and an equal part of that of "any class". A client of reliability 0 has no effect, clients that
    agree sharpen each other. Fusion space: evidence. Which facts make the reliability is our choice.

    Parameters
    ----------
    reliability : float
        How far a client is believed, 0 to 0.95: at 1 a single zero would rule a class out.
    reliability_from : str
        ``"constant"``, or ``"entropy"``: times one less the answer's normalised entropy, so that a client counts less
        where it is unsure.
    rule : str
        What becomes of conflict: ``"dempster"`` spreads it in proportion, ``"yager"`` turns it into "any class" (many
        clients that disagree then give almost uniform labels), ``"murphy"`` averages the masses first and combines as
        many copies of the mean as there are clients with a reliability above 0.

    Attributes
    ----------
    conflict : Tensor, optional
        Kappa of each transfer sample in the last round, float64 ``[M]``: the mass on contradictions.
    """

    sends = returns = frozenset({"soft_labels"})

    def __init__(self, reliability: float = 0.9, reliability_from: str = "constant", rule: str = "dempster") -> None:
        if not 0 <= reliability <= 0.95:
            raise ValueError(f"reliability={reliability} must be from 0 to 0.95")
        if reliability_from not in RELIABILITIES:
            raise ValueError(f"reliability_from={reliability_from!r} must be one of {', '.join(RELIABILITIES)}")
        if rule not in RULES:
            raise ValueError(f"rule={rule!r} must be one of {', '.join(RULES)}")
        self.reliability = reliability
        self.reliability_from = reliability_from
        self.rule = rule
        self.conflict: Tensor | None = None

    def reliabilities(self, knowledge: KnowledgeBatch) -> Tensor:
        """Return how far each client is believed on each transfer sample, float64 ``[N, M]``; 0 without an answer."""
        reliability = torch.full(knowledge.mask.shape, self.reliability, dtype=torch.float64)
        if self.reliability_from == "entropy":
            entropy = torch.special.entr(knowledge.soft_labels.double().clamp_min(0)).sum(2)
            uniform = torch.log(torch.tensor(knowledge.soft_labels.shape[2], dtype=torch.float64))
            reliability *= (1 - entropy / uniform).clamp(0, 1)
        return reliability.where(knowledge.mask, 0)

    def fuse(self, knowledge: KnowledgeBatch, server: Server) -> Fused:
        """Combine the evidence on every transfer sample."""
        reliability = self.reliabilities(knowledge)
        soft_labels = knowledge.soft_labels.double().clamp_min(0)
        if self.rule == "murphy":
            # An answer that is uniform up to rounding has no say, and is no source.
            sources = (reliability > 1e-9).sum(0)
            mean_mass = torch.einsum("nm,nmc->mc", reliability, soft_labels) / sources.clamp_min(1).unsqueeze(1)
            mean_reliability = reliability.sum(0) / sources.clamp_min(1)
            log_any = sources * torch.log1p(-mean_reliability)
            support = sources.unsqueeze(1) * torch.log1p(mean_mass / (1 - mean_reliability).unsqueeze(1))
        else:
            log_any = torch.log1p(-reliability).sum(0)
            odds = reliability / (1 - reliability)
            support = (odds.unsqueeze(2) * soft_labels).log1p_().sum(0)

        # Of every unnormalised mass the logarithm of its ratio to u(any): products of many clients would underflow.
        log_ratio = torch.cat([support + torch.log(-torch.expm1(-support)), torch.zeros_like(support[:, :1])], dim=1)
        log_total = log_any + torch.logsumexp(log_ratio, dim=1)
        self.conflict = -torch.expm1(log_total.clamp_max(0))

        mass = torch.softmax(log_ratio, dim=1)
        singletons, any_class = mass[:, :-1], mass[:, -1:]
        if self.rule == "yager":
            kappa = self.conflict.unsqueeze(1)
            singletons, any_class = (1 - kappa) * singletons, (1 - kappa) * any_class + kappa
        pignistic = singletons + any_class / singletons.shape[1]
        tensors = {"soft_labels": pignistic.to(knowledge.soft_labels.dtype), "mask": knowledge.mask.any(0)}
        return Fused.for_all(soft_labels=tensors)
