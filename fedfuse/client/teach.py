"""Fused soft labels as something to learn from: each client's lesson, its stream, and what is trained beside it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from fedfuse.client.client import Client, ClientSettings
from fedfuse.client.fit import Stream, Term
from fedfuse.client.predict import predict
from fedfuse.client.state import ClientState
from fedfuse.knowledge import Tensors
from fedfuse.objectives.cross_entropy import CrossEntropy
from fedfuse.objectives.objective import part_for
from fedfuse.randomness import epoch_order, numpy_generator
from fedfuse.transfer.lesson import Lesson

# What an objective can learn from on transfer samples, beside what the server returns.
OWN_KNOWLEDGE = frozenset({"own_soft_labels", "known_classes"})


@dataclass(frozen=True)
class Taught:
    """What one client is to learn from: its lesson, and what the steps that made it remember."""

    lesson: Lesson
    memory: Tensors


def teach(
    clients: Sequence[Client],
    states: Sequence[ClientState],
    fused: Sequence[tuple[Tensor, Tensor]],
    verb: str,
    rounds: Sequence[int],
    settings: ClientSettings,
) -> list[Taught]:
    """Make the lessons of a cohort.

    Parameters
    ----------
    clients, states : Sequence
        The cohort.
    fused : Sequence[tuple[Tensor, Tensor]]
        For each client fused soft labels ``[M, C]`` and the rows ``[R]`` to learn from.
    verb : str
        What they are for, ``"learn"`` or ``"absorb"``; with the round it decides what is drawn.
    rounds : Sequence[int]
        The round of that, for each client: who was away catches up with an earlier one.
    settings : ClientSettings
        How every client works.
    """
    inputs = settings.transfer.inputs
    own: Sequence[Tensor | None] = [None] * len(clients)
    if "own_soft_labels" in settings.objective.needs or any(step.needs_own for step in settings.lesson):
        outputs = predict(clients[0].architecture, [state.parameters for state in states], [inputs] * len(clients))
        own = [torch.softmax(one.logits, dim=1) for one in outputs]
    domains = None
    if settings.transfer.domains is not None and any(step.needs_domains for step in settings.lesson):
        domains = one_hot(settings.transfer.domains).to(settings.dtype)
    taught = []
    for client, state, (soft_labels, rows), answered, round in zip(clients, states, fused, own, rounds, strict=True):
        generator = numpy_generator(settings.seed, f"lesson {verb}", round, client.client_id)
        lesson = Lesson(inputs, soft_labels, rows, answered, domains=domains)
        memory: dict[str, Tensor] = {}
        for number, step in enumerate(settings.lesson):
            prefix = f"lesson.{number}."
            before = {
                name: state.objective_state.get(prefix + name, value)
                for name, value in step.initial_state(settings.num_classes).items()
            }
            lesson, after = step(lesson, before, round, generator)
            memory |= {prefix + name: value for name, value in after.items()}
        taught.append(Taught(lesson, memory))
    return taught


def transfer_term(settings: ClientSettings, state: ClientState) -> Term:
    """Return the loss on transfer samples: what of the objective can be learnt from what came back."""
    objective = part_for(settings.objective, _available(state))
    assert objective is not None, "compatibility is checked before a run"
    return Term("transfer", objective, on_fused_head=True)


def transfer_stream(
    client: Client, state: ClientState, taught: Taught, plan: Tensor, share: float | None, settings: ClientSettings
) -> Stream:
    """Return a lesson as samples to learn from; ``share`` is what its loss counts, where it is not alone."""
    lesson = taught.lesson
    tensors = {"inputs": lesson.inputs, "soft_labels": lesson.soft_labels}
    if lesson.weights is not None:
        tensors["weights"] = lesson.weights.to(settings.dtype)
    constants: dict[str, Tensor] = {}
    if "own_soft_labels" in settings.objective.needs and lesson.own is not None:
        tensors["own_soft_labels"] = lesson.own
    if "known_classes" in settings.objective.needs:
        constants["known_classes"] = torch.bincount(client.data.train.labels, minlength=settings.num_classes) > 0
    if "relations" in settings.objective.needs and "relations" in state.received:
        received = state.received["relations"]
        tensors["relations"], tensors["positions"] = received["relations"], received["positions"]
        tensors["relations_known"] = received["known"]
    return Stream(tensors, plan, scaled(constants, share, settings))


def label_term() -> Term:
    """Return the loss on the client's own labels."""
    return Term("private", CrossEntropy())


def label_stream(
    client: Client,
    num_steps: int,
    batch_size: int,
    generator: np.random.Generator,
    share: float,
    settings: ClientSettings,
) -> Stream:
    """Return the client's own samples, for so many steps beside another stream; ``share`` is what their loss counts."""
    train = client.data.train
    plan = repeated_plan(len(train), num_steps, batch_size, generator)
    tensors = {"inputs": train.inputs, "labels": train.labels}
    if not len(train):
        # A row that no plan visits: padding has to be something.
        tensors = {name: tensor.new_zeros(1, *tensor.shape[1:]) for name, tensor in tensors.items()}
    return Stream(tensors, plan, scaled({}, share, settings))


def repeated_plan(number: int, num_steps: int, batch_size: int, generator: np.random.Generator) -> Tensor:
    """Cut as many epochs of so many samples as it takes into full batches, int64 ``[num_steps, batch_size]``.

    Without samples there is nothing but padding, -1.
    """
    wanted = num_steps * batch_size
    if number == 0:
        return torch.full((num_steps, batch_size), -1)
    order = epoch_order(generator, number, epochs=1 + wanted // number).flatten()[:wanted]
    return order.reshape(num_steps, batch_size)


def _available(state: ClientState) -> frozenset[str]:
    relations = frozenset({"relations"} if "relations" in state.received else ())
    return OWN_KNOWLEDGE | {"soft_labels"} | relations


def scaled(constants: Tensors, share: float | None, settings: ClientSettings) -> Tensors:
    """Add to the constants of a stream that its losses count this share, where it is not alone."""
    return constants if share is None else {**constants, "scale": torch.tensor(share, dtype=settings.dtype)}
