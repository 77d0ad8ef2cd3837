"""Which runner trains a cohort."""

from collections.abc import Mapping

from fedfuse.client.fit import Fit
from fedfuse.engine import sequential, stacked
from fedfuse.errors import unknown_name
from fedfuse.models.architecture import Architecture

RUNNERS = ("auto", "sequential", "stacked", "probe")

STACKABLE_LAYERS = frozenset({"Flatten", "GELU", "Identity", "LayerNorm", "Linear", "ReLU", "Sigmoid", "Tanh"})
# Above this size a model's step is bound by arithmetic, not by dispatch, and stacking stops paying (measured).
LARGEST_STACKED = 160_000
# Their state or their draws differ between one client and many; also in names such as AlphaDropout or SyncBatchNorm.
UNSTACKABLE_LAYERS = ("Dropout", "BatchNorm")


def choose_runner(name: str | Mapping[str, str], architecture: Architecture, on_cuda: bool = False) -> Fit:
    """Choose how a cohort is trained.

    Parameters
    ----------
    name : str or Mapping[str, str]
        One of `RUNNERS`, or what `fedfuse.engine.probe` found for the signature of each architecture. ``auto`` is a
        fixed rule on layer types and size, so that one seed gives one result: small multilayer perceptrons are stacked,
        everything else is sequential; on a CUDA device everything is stacked. Models with dropout, batch normalisation
        or tied parameters, and those that torch cannot run stacked, are sequential under every name.
    architecture : Architecture
        The cohort's architecture.
    on_cuda : bool
        Whether it is trained on a CUDA device.

    Returns
    -------
    Fit
        The runner.

    Raises
    ------
    ConfigurationError
        If the name is unknown.
    """
    if not isinstance(name, str):
        name = name.get(architecture.signature, "auto")
    if name not in RUNNERS:
        raise unknown_name("engine.runner", name, RUNNERS)
    layers = architecture.layer_types
    if any(unstackable in layer for layer in layers for unstackable in UNSTACKABLE_LAYERS):
        return sequential.fit
    if architecture.ties_parameters or not architecture.can_be_stacked:
        return sequential.fit
    # Where nothing was measured, the rule holds for probe too.
    if name in ("auto", "probe") and not on_cuda:
        small = architecture.num_parameters <= LARGEST_STACKED
        return stacked.fit if small and layers <= STACKABLE_LAYERS else sequential.fit
    return sequential.fit if name == "sequential" else stacked.fit
