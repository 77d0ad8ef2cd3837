"""pfl-research's simulator (package pfl), where it is installed: federated averaging, which is training and a mean."""

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedfuse.benchmark.cells import BATCH_SIZE, LEARNING_RATE, MOMENTUM, Cell
from fedfuse.benchmark.jobs import make_jobs, operations_of
from fedfuse.benchmark.turns import CannotCompeteError, Turns


def compete(cell: Cell, turns: Turns) -> None:
    """Let its backend train all clients in turn from the central model, and average them, an iteration a turn.

    Raises
    ------
    CannotCompeteError
        If it is not installed, or something that it needs.
    """
    if find_spec("pfl") is None:
        raise CannotCompeteError("it is not installed: pip install pfl")
    try:
        from pfl.aggregate.simulate import SimulatedBackend
        from pfl.algorithm.base import NNAlgorithmParams
        from pfl.algorithm.federated_averaging import FederatedAveraging
        from pfl.callback.base import TrainingProcessCallback
        from pfl.data.federated_dataset import FederatedDataset
        from pfl.data.sampling import get_user_sampler
        from pfl.hyperparam import NNTrainHyperParams
        from pfl.metrics import Metrics
        from pfl.model.pytorch import PyTorchModel
    except ImportError as error:
        raise CannotCompeteError(f"pfl is installed, but {str(error)[0].lower()}{str(error)[1:]}") from error

    jobs = make_jobs(cell)
    data = {str(number): tuple(job.streams["private"].tensors.values()) for number, job in enumerate(jobs)}
    module = _WithLoss(jobs[0].architecture.module())
    clients = FederatedDataset.from_slices(data, get_user_sampler("minimize_reuse", [*data]))
    model = PyTorchModel(
        module,
        lambda parameters, lr: torch.optim.SGD(parameters, lr, momentum=MOMENTUM),
        torch.optim.SGD(module.parameters(), lr=1.0),
    )

    class Follow(TrainingProcessCallback):  # type: ignore[misc,unused-ignore]
        """Holds it up between iterations."""

        def after_central_iteration(self, *_: object, **__: object) -> tuple[bool, Any]:
            turns.finished()
            return False, Metrics()

    # It evaluates only in the first iteration, which is to warm up.
    settings = NNAlgorithmParams(1 + cell.repeats, 2 + cell.repeats, cell.clients, None)
    training = NNTrainHyperParams(local_batch_size=BATCH_SIZE, local_num_epochs=1, local_learning_rate=LEARNING_RATE)
    turns.ready(operations_of(cell))
    FederatedAveraging().run(
        settings,
        SimulatedBackend(clients, clients),
        model,
        training,
        callbacks=[Follow()],
        send_metrics_to_platform=False,
    )


class _WithLoss(nn.Module):
    """A model that tells its own loss."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model = model

    def loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Compute the loss of a batch."""
        return functional.cross_entropy(self._model(inputs).logits, labels)

    def metrics(self, inputs: Tensor, labels: Tensor) -> dict[str, Any]:
        """Evaluate a batch, of which nothing is wanted."""
        return {}
