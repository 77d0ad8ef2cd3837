"""What an author of a strategy sees: declare what travels, override one hook."""

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from torch import Tensor

from fedfuse.errors import FedfuseError
from fedfuse.fusion import is_weight, mix, strongest
from fedfuse.knowledge import Fused, KnowledgeBatch
from fedfuse.privacy.exposure import Exposure
from fedfuse.privacy.guarantee import Guarantee
from fedfuse.server import Server

if TYPE_CHECKING:
    from fedfuse.rounds import Rounds

NOTHING: frozenset[str] = frozenset()


class FusionStrategy(Strategy):
    """How a server fuses what clients know.

    A subclass names the carriers in ``sends`` and ``returns`` and overrides one of three hooks:

    - `relate`: how much each client listens to each other one;
    - `weigh`: how much each client's answer to each transfer sample counts;
    - `fuse`: anything else.

    With none overridden, every client gets the mean of all soft labels. The base class does the rest: it mixes,
    renormalises where a client did not answer, sends each client its own, checks replies, leaves bad ones out by name,
    lets absent clients catch up, keeps the relevance for the report, and resumes.

    Attributes
    ----------
    sends, returns : Set[str]
        The carriers that clients express, and that go back to them.
    needs : Set[str]
        Private facts that clients must tell, for example ``{"num_examples"}``.
    space : str
        Where soft labels are mixed: ``"probability"``, ``"log_probability"`` or ``"logit"``.
    neighbours : int or None
        How many clients each one listens to, those that `relate` finds most relevant; all if there is no number. A few
        of very many cost a fraction of all.
    caution : str
        What a reader of the results must know; printed where a run starts.
    needs_labels : bool
        Whether it learns from the labels of some transfer samples, ``server.labels``.
    one_architecture, one_embedding_size : bool
        Whether all clients must have the same architecture, or features of the same width.
    """

    sends: ClassVar[AbstractSet[str]] = NOTHING
    returns: ClassVar[AbstractSet[str]] = NOTHING
    needs: AbstractSet[str] = NOTHING
    caution: ClassVar[str] = ""
    space: str = "probability"
    neighbours: int | None = None
    needs_labels: ClassVar[bool] = False
    one_architecture: ClassVar[bool] = False
    one_embedding_size: ClassVar[bool] = False

    # A strategy of one's own need not call our constructor: the run attaches this when it starts.
    rounds: "Rounds | None" = None

    # -- what an author overrides ------------------------------------------------------------------------------------

    def relate(self, knowledge: KnowledgeBatch) -> Tensor | None:
        """Return how much each client (row) listens to each client (column): ``[N, N]``, rows sum to one.

        Nothing (the default) means that all clients get the same.
        """
        return None

    def weigh(self, knowledge: KnowledgeBatch) -> Tensor | None:
        """Return how much each client's answer to each transfer sample counts: ``[N, M]``, not negative.

        Nothing (the default) means that all count alike.
        """
        return None

    def fuse(self, knowledge: KnowledgeBatch, server: Server) -> Fused:
        """Combine the clients' knowledge. By default, mix soft labels by `relate` and `weigh` in ``space``."""
        if not self.returns:
            return Fused()
        number = len(knowledge)
        relevance = self.relate(knowledge)
        if relevance is not None:
            self._check_relevance(relevance, number)
        weights = self.weigh(knowledge)
        if weights is not None:
            self._check("weigh", weights, tuple(knowledge.mask.shape))
        if relevance is not None:
            few = None if self.neighbours is None else strongest(relevance, self.neighbours)
            mixed, answered = mix(knowledge.soft_labels, knowledge.mask, few or relevance, weights, self.space)
            tensors = {"soft_labels": mixed, "mask": answered}
            heard = relevance if few is None else few.dense(number)
            return Fused.for_each(knowledge.client_ids, relevance=heard, soft_labels=tensors)
        everybody = torch.full((1, number), 1 / number)
        mixed, answered = mix(knowledge.soft_labels, knowledge.mask, everybody, weights, self.space)
        counted = knowledge.mask.double() if weights is None else weights.double() * knowledge.mask
        heard = counted.sum(1) / counted.sum().clamp_min(torch.finfo(counted.dtype).tiny)
        return Fused.for_all(
            relevance=heard.expand(number, number),
            soft_labels={"soft_labels": mixed[0], "mask": answered[0]},
        )

    def initial(self, server: Server) -> Fused | None:
        """Return what every client starts from, for example common weights. By default each has its own."""
        return None

    def ask(self, rows: Tensor, round: int) -> Tensor:
        """Return which of the transfer samples that the policy chose clients answer in a round: int64 ``[R]``.

        By default all. At least one; a strategy that knows the answers to some already need not pay for them again.
        """
        return rows

    def guarantee(self, exposure: Exposure, num_rounds: int) -> Guarantee | None:
        """State what is promised of all that comes back in so many rounds, for a strategy that adds noise itself.

        By default nothing. Where something is, `fuse` must give no relevance, which would tell more.
        """
        return None

    def state_dict(self) -> dict[str, Any]:
        """Return what the strategy must remember across a resume: tensors and plain values by name."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned."""

    # -- Flower's interface: the two phases of a round -----------------------------------------------------------------

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord | None = None,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
        first_round: int = 1,
    ) -> Result:
        """Run the rounds from ``first_round`` to ``num_rounds`` with the `Rounds` attached to this strategy.

        Of Flower's further arguments none is used: clients have no common arrays, and their configuration is
        composed on both sides alike. What a run gives is told to the observers of `Rounds`, so the result is empty.
        """
        rounds = self._attached()
        for server_round in range(first_round, num_rounds + 1):
            rounds.run_round(self, grid, server_round, timeout)
        return Result()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Ask this round's clients to share."""
        return self._attached().share_messages(self, server_round)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Check what came back and fuse it."""
        self._attached().receive_knowledge(self, server_round, replies)
        return None, None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Send each of this round's clients its fused knowledge to absorb."""
        return self._attached().absorb_messages(server_round)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Collect the evaluations."""
        self._attached().receive_metrics(server_round, replies)
        return None

    def summary(self) -> None:
        """Do nothing: what a strategy needs is printed by the command before the run."""

    def _attached(self) -> "Rounds":
        if self.rounds is None:
            raise FedfuseError("This strategy is not attached to a run: see fedfuse.server_app.serve.")
        return self.rounds

    def _check_relevance(self, relevance: Tensor, number: int) -> None:
        self._check("relate", relevance, (number, number))
        off = float((relevance.sum(1) - 1).abs().max())
        if off > 1e-3:
            name = type(self).__name__
            raise FedfuseError(f"{name}.relate returned rows that do not sum to one (off by up to {off:.3g}).")

    def _check(self, hook: str, returned: Tensor, shape: tuple[int, ...]) -> None:
        name = f"{type(self).__name__}.{hook}"
        if returned.shape != shape:
            raise FedfuseError(f"{name} returned {list(returned.shape)}, expected {list(shape)}.")
        if not is_weight(returned):
            raise FedfuseError(f"{name} returned a negative number or a NaN.")
