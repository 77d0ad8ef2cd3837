"""One client, and how every client of a run works."""

from dataclasses import dataclass

import torch

from fedfuse.client.state import ClientState, PrivacyState
from fedfuse.configuration import TrainingSettings
from fedfuse.data.federation import ClientData, TransferSet
from fedfuse.data.samples import Samples
from fedfuse.encoding.encoding import Encoding
from fedfuse.encoding.float32 import FLOAT32
from fedfuse.models.architecture import Architecture
from fedfuse.objectives.objective import Objective
from fedfuse.predictors.predictor import Predictor
from fedfuse.privacy.chain import promises
from fedfuse.privacy.exposure import Exposure
from fedfuse.privacy.keystream import KEY_BYTES, new_key
from fedfuse.privacy.protector import Protector
from fedfuse.randomness import numpy_generator, torch_seed
from fedfuse.transfer.lesson import LessonStep


@dataclass(frozen=True)
class Client:
    """What belongs to one client alone: its place in the federation, its model's architecture, its private data."""

    client_id: int
    architecture: Architecture
    data: ClientData


@dataclass(frozen=True)
class Predictors:
    """How clients answer: others (``share``), their owner (``personal``), an unseen population (``general``)."""

    share: Predictor
    personal: Predictor
    general: Predictor


@dataclass(frozen=True)
class ClientSettings:
    """How every client of a run works.

    Parameters
    ----------
    seed : int
        The seed of the run.
    dtype : torch.dtype
        Of models, inputs and what is sent.
    class_names : tuple[str, ...]
        The C classes.
    transfer : TransferSet
        The transfer set that everybody holds.
    global_test : Samples, optional
        A held-out test set of the whole population, where there is one.
    learn, absorb : TrainingSettings
        How long and with which optimiser each verb trains.
    objective : Objective
        What a client learns from fused knowledge with.
    lesson : tuple[LessonStep, ...]
        What it makes of fused soft labels first, in this order.
    predictors : Predictors
        How clients answer.
    protectors : tuple[Protector, ...]
        Applied in this order before anything is sent.
    share_facts : frozenset[str]
        The private facts that may travel at all: ``num_examples``, ``label_counts``, ``private_labels``,
        ``test_metrics``.
    encoding : Encoding
        How soft labels travel.
    exposure : Exposure, optional
        How much clients release in the run at most; where a guarantee is claimed, they release no more.
    secure_rng : bool
        Whether draws that back a guarantee come from the operating system.
    protection : str
        What the protectors do, as clients state it beside what they send, see `fedfuse.privacy.chain.record_of`.
    """

    seed: int
    dtype: torch.dtype
    class_names: tuple[str, ...]
    transfer: TransferSet
    global_test: Samples | None
    learn: TrainingSettings
    absorb: TrainingSettings
    objective: Objective
    predictors: Predictors
    protectors: tuple[Protector, ...]
    share_facts: frozenset[str]
    lesson: tuple[LessonStep, ...] = ()
    encoding: Encoding = FLOAT32
    exposure: Exposure | None = None
    secure_rng: bool = True
    protection: str = ""

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def keeps_fused_soft_labels(self) -> bool:
        """Whether a protector compares with the fused soft labels of the round before, or they are learnt again."""
        return bool(self.learn.rehearse) or any(protector.needs_reference for protector in self.protectors)


def first_state(client: Client, settings: ClientSettings) -> ClientState:
    """Return the state before round 1: initial weights drawn for this client."""
    seed = torch_seed(settings.seed, "initial weights", client=client.client_id)
    return ClientState(
        parameters=client.architecture.initial_parameters(seed, settings.dtype),
        privacy=PrivacyState(key=_privacy_key(client, settings)),
    )


def _privacy_key(client: Client, settings: ClientSettings) -> bytes:
    if settings.secure_rng and promises(settings.protectors):
        return new_key()
    return numpy_generator(settings.seed, "privacy key", client=client.client_id).bytes(KEY_BYTES)
