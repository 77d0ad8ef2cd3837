"""The nouns that travel: what one client shares, what all clients shared, and what goes back fused.

All three are immutable. Tensors are grouped by carrier (see `fedfuse.carriers`), each carrier naming its own tensors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]

# Squares of larger numbers, summed over clients, overflow float32; a model that has one has diverged.
LARGEST_NUMBER = 1e12


class InvalidKnowledgeError(ValueError):
    """Knowledge that must not be used: wrong shape, type, range, round or client. The text is safe to show."""


@dataclass(frozen=True)
class Knowledge:
    """What one client shares in one round.

    Parameters
    ----------
    client_id : int
        The client, 0 or above.
    round : int
        The round, 1 or above.
    carriers : Mapping[str, Tensors]
        Named tensors by carrier, for example ``{"soft_labels": {"soft_labels": [rows, classes]}}``. Every floating
        tensor is finite.
    num_examples : int, optional
        The client's number of training examples, where it may travel.
    label_counts : tuple[int, ...], optional
        The client's number of training examples of each class, where it may travel.
    protection : str
        What the client did to protect it, see `fedfuse.privacy.chain.record_of`; empty: nothing.

    Raises
    ------
    InvalidKnowledgeError
        If an identifier is out of range or a tensor holds what `is_finite` refuses.
    """

    client_id: int
    round: int
    carriers: Mapping[str, Tensors]
    num_examples: int | None = None
    label_counts: tuple[int, ...] | None = None
    protection: str = ""

    def __post_init__(self) -> None:
        if self.client_id < 0 or self.round < 1:
            raise InvalidKnowledgeError(f"client {self.client_id}, round {self.round}: out of range")
        if self.num_examples is not None and not 1 <= self.num_examples < 2**40:
            raise InvalidKnowledgeError(f"implausible number of examples: {self.num_examples}")
        if self.label_counts is not None:
            plausible = all(0 <= count < 2**40 for count in self.label_counts)
            if not plausible or not any(self.label_counts):
                raise InvalidKnowledgeError("implausible label counts")
        for carrier, tensors in self.carriers.items():
            check_finite(carrier, tensors)
        object.__setattr__(self, "carriers", _freeze(self.carriers))


@dataclass(frozen=True)
class WeightStack:
    """The weights of one cohort: clients of one architecture, stacked along the first dimension.

    Parameters
    ----------
    architecture : str
        The signature of the architecture.
    positions : Tensor
        int64 ``[K]``: the rows of the batch that these clients stand in.
    weights : Tensors
        Parameters and buffers, each ``[K, ...]``.
    """

    architecture: str
    positions: Tensor
    weights: Tensors


@dataclass(frozen=True)
class KnowledgeBatch:
    """The knowledge of all clients of a round, sorted by client id and stacked: what a strategy sees.

    Parameters
    ----------
    client_ids : tuple[int, ...]
        N ascending client ids. Row ``i`` of every tensor belongs to ``client_ids[i]``.
    round : int
        The round.
    tensors : Mapping[str, Tensors]
        Stacked tensors by carrier, each ``[N, ...]``.
    weights : tuple[WeightStack, ...]
        The ``weights`` carrier, a stack for each cohort.
    num_examples : Tensor, optional
        float64 ``[N]``, where the strategy declares ``needs = {"num_examples"}``.
    label_counts : Tensor, optional
        float64 ``[N, C]``, where the strategy declares ``needs = {"label_counts"}``.
    """

    client_ids: tuple[int, ...]
    round: int
    tensors: Mapping[str, Tensors]
    weights: tuple[WeightStack, ...] = ()
    num_examples: Tensor | None = None
    label_counts: Tensor | None = None

    def __len__(self) -> int:
        return len(self.client_ids)

    def tensor(self, carrier: str, name: str) -> Tensor:
        """Return one stacked tensor.

        Raises
        ------
        KeyError
            If the strategy did not ask for this carrier in ``sends``.
        """
        if carrier not in self.tensors:
            raise KeyError(f"no {carrier!r} in this batch: the strategy's sends must name it")
        return self.tensors[carrier][name]

    @property
    def soft_labels(self) -> Tensor:
        """Class probabilities ``[N, M, C]`` on the transfer set; zero in the rows that a client did not answer."""
        return self.tensor("soft_labels", "soft_labels")

    @property
    def mask(self) -> Tensor:
        """Bool ``[N, M]``: which transfer samples each client answered."""
        return self.tensor("soft_labels", "mask")

    @property
    def prototypes(self) -> Tensor:
        """Mean features by class ``[N, C, D]``; zero where a client has no such class."""
        return self.tensor("prototypes", "prototypes")

    @property
    def prototype_mask(self) -> Tensor:
        """Bool ``[N, C]``: which classes each client has."""
        return self.tensor("prototypes", "mask")

    def first_answered(self, most: int) -> "KnowledgeBatch":
        """Keep the soft labels on the first transfer samples that anybody answered, at most so many, and nothing else.

        The transfer set is in random order, so these are a fair sample of it.
        """
        rows = torch.nonzero(self.mask.any(0)).squeeze(1)[:most]
        tensors = {"soft_labels": self.soft_labels[:, rows], "mask": self.mask[:, rows]}
        return KnowledgeBatch(self.client_ids, self.round, {"soft_labels": tensors})

    @property
    def class_logits(self) -> Tensor:
        """Mean logits by class of the sample ``[N, C, C]``; zero where a client has no such class."""
        return self.tensor("class_logits", "class_logits")

    @property
    def class_logits_mask(self) -> Tensor:
        """Bool ``[N, C]``: which classes each client has."""
        return self.tensor("class_logits", "mask")

    @property
    def densities(self) -> Tensor:
        """How likely each client's data make each transfer sample: log-densities ``[N, M]``; zero where unanswered."""
        return self.tensor("densities", "densities")

    @property
    def familiarity(self) -> Tensor:
        """``[N, M]``, from 0 to 1: the share of a client's own samples that are less likely to it than this one."""
        return self.tensor("densities", "familiarity")

    @property
    def relations(self) -> Tensor:
        """How far apart each client's features are: relative distances ``[N, P]``; zero where it is not `related`.

        For the P pairs of the A transfer samples that anybody answered, (0, 1), (0, 2), ..., (1, 2), ...
        """
        return self.tensor("relations", "relations")

    @property
    def relations_mask(self) -> Tensor:
        """Bool ``[N, M]``: the transfer samples that each client told relations of."""
        return self.tensor("relations", "mask")

    @property
    def related(self) -> Tensor:
        """Bool ``[N, P]``: the pairs of transfer samples of which each client answered both."""
        mask = self.relations_mask
        return both_of_pairs(mask[:, mask.any(0)])

    @property
    def example_shares(self) -> Tensor:
        """Each client's share of all training examples, float64 ``[N]``, summing to one.

        Raises
        ------
        KeyError
            If the strategy did not declare ``needs = {"num_examples"}``.
        """
        if self.num_examples is None:
            raise KeyError("no example counts in this batch: the strategy's needs must name 'num_examples'")
        return self.num_examples / self.num_examples.sum()

    @property
    def label_shares(self) -> Tensor:
        """Each client's true label distribution, float64 ``[N, C]``, rows summing to one.

        Raises
        ------
        KeyError
            If the strategy did not declare ``needs = {"label_counts"}``.
        """
        if self.label_counts is None:
            raise KeyError("no label counts in this batch: the strategy's needs must name 'label_counts'")
        return self.label_counts / self.label_counts.sum(1, keepdim=True)


@dataclass(frozen=True)
class Fused:
    """What goes back to the clients: one for all, or one for each.

    Build it with `for_all` or `for_each`.

    Parameters
    ----------
    common : Mapping[str, Tensors], optional
        Tensors by carrier for every client, also for those that were away.
    personal : Mapping[int, Mapping[str, Tensors]]
        Tensors by carrier for each client id.
    relevance : Tensor, optional
        ``[N, N]``: how much each client listened to each other one, for the report. Rows sum to one.
    """

    common: Mapping[str, Tensors] | None = None
    personal: Mapping[int, Mapping[str, Tensors]] = field(default_factory=dict)
    relevance: Tensor | None = None

    def __post_init__(self) -> None:
        for carriers in (self.common or {}, *self.personal.values()):
            for carrier, tensors in carriers.items():
                check_finite(carrier, tensors)

    @staticmethod
    def for_all(relevance: Tensor | None = None, **carriers: Tensors) -> "Fused":
        """Send the same tensors to every client, for example ``Fused.for_all(weights={...})``."""
        return Fused(common=_freeze(carriers), relevance=relevance)

    @staticmethod
    def for_each(client_ids: Sequence[int], relevance: Tensor | None = None, **carriers: Tensors) -> "Fused":
        """Send row ``i`` of every tensor to ``client_ids[i]``; the rows are views, not copies."""
        personal = {
            client_id: _freeze(
                {
                    carrier: {name: tensor[row] for name, tensor in tensors.items()}
                    for carrier, tensors in carriers.items()
                }
            )
            for row, client_id in enumerate(client_ids)
        }
        return Fused(personal=personal, relevance=relevance)


def both_of_pairs(mask: Tensor) -> Tensor:
    """Tell which pairs of samples are both in a mask: bool ``[..., A]`` becomes ``[..., A (A - 1) / 2]``."""
    first, second = torch.triu_indices(mask.shape[-1], mask.shape[-1], offset=1)
    return mask[..., first] & mask[..., second]


def is_finite(tensor: Tensor) -> bool:
    """Tell whether a tensor holds no NaN, no infinity, and no number so large that sums would overflow."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    # One pass without a copy; a NaN anywhere makes both a NaN.
    smallest, largest = tensor.aminmax()
    return float(smallest) >= -LARGEST_NUMBER and float(largest) <= LARGEST_NUMBER


def check_finite(carrier: str, tensors: Tensors) -> None:
    """Raise `InvalidKnowledgeError` for a tensor that `is_finite` refuses."""
    for name, tensor in tensors.items():
        if not is_finite(tensor):
            raise InvalidKnowledgeError(f"{carrier}: {name} is not finite, or above 1e12")


def _freeze(carriers: Mapping[str, Tensors]) -> Mapping[str, Tensors]:
    return MappingProxyType({carrier: MappingProxyType(dict(tensors)) for carrier, tensors in carriers.items()})
