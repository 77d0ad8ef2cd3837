"""FedDF: distil all clients into one student for each architecture (Lin et al., NeurIPS 2020, arXiv 2006.07242)."""

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax

from fedfuse.knowledge import Fused, KnowledgeBatch, Tensors, WeightStack
from fedfuse.server import Server
from fedfuse.strategy import FusionStrategy

ROWS_AT_ONCE = 1024


class FedDF(FusionStrategy):
    r"""FedDF: average the weights of each architecture, then distil the mean logits of all clients into each average.

    Each architecture's student minimises :math:`KL(softmax(\frac{1}{N} \sum_n z_n(x)) \| softmax(z(x)))` on the
    unlabelled transfer set, with the epochs and the optimiser of ``absorb``, and every client goes on from the student
    of its architecture. Unlike the paper there is no validation data: the student is neither stopped early nor thrown
    away for being worse than the average. Teachers and students normalise as when they predict. With one
    architecture all start from common weights, and clients that were away get the newest student; with several,
    each client starts from its own and gets the student of the last round that it took part in. Weights give away
    most. Fusion space: parameters, then logits.
    """

    sends = returns = frozenset({"weights"})
    needs = frozenset({"num_examples"})

    def initial(self, server: Server) -> Fused | None:
        """Start every client from the same weights, if there is one architecture."""
        if len(server.architectures) > 1:
            return None
        (architecture,) = server.architectures
        return Fused.for_all(weights=server.build(architecture).state_dict())

    def fuse(self, knowledge: KnowledgeBatch, server: Server) -> Fused:
        """Average each cohort's weights and distil the ensemble into the average."""
        targets = log_softmax(ensemble_logits(knowledge, server), dim=1)
        students = [self._student(cohort, knowledge, server, targets) for cohort in knowledge.weights]
        if len(server.architectures) == 1:
            return Fused.for_all(weights=students[0])
        return Fused(
            personal={
                knowledge.client_ids[position]: {"weights": student}
                for cohort, student in zip(knowledge.weights, students, strict=True)
                for position in cohort.positions.tolist()
            }
        )

    def _student(self, cohort: WeightStack, knowledge: KnowledgeBatch, server: Server, targets: Tensor) -> Tensors:
        shares = knowledge.example_shares[cohort.positions]
        module = server.build(cohort.architecture)
        module.load_state_dict({name: average(stacked, shares) for name, stacked in cohort.weights.items()})

        def loss(rows: Tensor) -> Tensor:
            # Layers that normalise over a batch or drop features stay as the clients left them.
            module.eval()
            logits = log_softmax(module(server.inputs(rows)).logits, dim=1)
            return kl_div(logits, targets[rows], reduction="batchmean", log_target=True)

        server.train(module, loss, torch.arange(server.num_transfer), f"feddf {cohort.architecture}", knowledge.round)
        return module.state_dict()


def ensemble_logits(knowledge: KnowledgeBatch, server: Server) -> Tensor:
    """Return the mean of all clients' logits on the transfer set, ``[M, C]``."""
    total = torch.zeros(server.num_transfer, server.num_classes, dtype=torch.float64)
    for cohort in knowledge.weights:
        module = server.build(cohort.architecture).eval()
        for row in range(len(cohort.positions)):
            module.load_state_dict({name: stacked[row] for name, stacked in cohort.weights.items()})
            total += logits_of(module, server)
    return (total / len(knowledge)).to(server.dtype)


@torch.no_grad()
def logits_of(module: nn.Module, server: Server) -> Tensor:
    """Return a model's logits on the transfer set, ``[M, C]``."""
    blocks = torch.split(torch.arange(server.num_transfer), ROWS_AT_ONCE)
    return torch.cat([module(server.inputs(rows)).logits for rows in blocks])


def average(stacked: Tensor, shares: Tensor) -> Tensor:
    """Average the weights of a cohort ``[K, ...]`` by the clients' examples ``[K]``."""
    mean: Tensor = torch.tensordot(shares / shares.sum(), stacked.to(shares.dtype), dims=1)
    # Integer buffers are rounded: a count that is 7 everywhere must not become 6.999... and then 6.
    return (mean if stacked.is_floating_point() else mean.round()).to(stacked.dtype)
