"""The first verb: train on private data."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fedfuse.client.client import Client, ClientSettings
from fedfuse.client.fit import Fit, FitJob, Stream, Term, batch_plan
from fedfuse.client.state import ClientState, parameters_are_finite
from fedfuse.knowledge import Tensors
from fedfuse.objectives.cross_entropy import CrossEntropy
from fedfuse.objectives.objective import HeadObjective
from fedfuse.randomness import epoch_order, numpy_generator

# Knowledge of classes that an objective learns from, and what the objective calls the mask of those that are known.
MASKS_BY_CARRIER = {"prototypes": "prototype_mask", "class_logits": "class_logits_mask"}
LEARNT_FROM = (*MASKS_BY_CARRIER, "generated", "private_soft_labels")


class DivergedError(Exception):
    """A client's training ended in weights that are not finite."""


def learn(
    clients: Sequence[Client],
    states: Sequence[ClientState],
    round: int,
    settings: ClientSettings,
    fit: Fit,
) -> list[ClientState]:
    """Train every client of a cohort on its private data.

    The loss is cross-entropy. Where knowledge of classes or soft labels of the private samples were received, the
    objective learns from them in every step; an objective that judges the head learns, in the same steps, from samples
    of the feature space too.

    Raises
    ------
    DivergedError
        If a client's weights are no longer finite.
    """
    learnt = list(states)
    # Jobs that run together have the same terms and constants, so clients run apart by what they received.
    kinds = [tuple(carrier for carrier in LEARNT_FROM if carrier in state.received) for state in states]
    for kind in sorted(set(kinds)):
        rows = [row for row, own in enumerate(kinds) if own == kind]
        jobs = [_job(clients[row], states[row], round, settings) for row in rows]
        for row, state in zip(rows, train_states("learn", [states[row] for row in rows], jobs, fit), strict=True):
            learnt[row] = state
    return learnt


def _job(client: Client, state: ClientState, round: int, settings: ClientSettings) -> FitJob:
    train = client.data.train
    generator = numpy_generator(settings.seed, "learn", round, client.client_id)
    order = epoch_order(generator, len(train), settings.learn.epochs)
    constants = _constants(state)
    soft_labels = state.received.get("private_soft_labels", {})
    streams = {
        "private": Stream(
            tensors={"inputs": train.inputs, "labels": train.labels, **soft_labels},
            plan=batch_plan(order, settings.learn.batch_size),
            constants=constants,
        )
    }
    terms: tuple[Term, ...] = (Term("private", CrossEntropy()),)
    if constants or soft_labels:
        terms += (Term("private", settings.objective),)
    if isinstance(settings.objective, HeadObjective) and (constants or "generated" in state.received):
        num_steps = len(streams["private"].plan)
        streams["head"] = _head_stream(client, state, round, settings, num_steps)
        terms += (Term("head", settings.objective.at_head),)
    return FitJob(
        architecture=client.architecture,
        parameters=state.parameters,
        streams=streams,
        terms=terms,
        optimizer=settings.learn.optimizer,
        objective_state=state.objective_state.get("learn", {}),
        proximal=settings.learn.proximal,
    )


def _head_stream(client: Client, state: ClientState, round: int, settings: ClientSettings, num_steps: int) -> Stream:
    """Let every step take a batch of what was generated; or else the prototypes of all known classes, as samples."""
    if "generated" in state.received:
        tensors, batch_size = state.received["generated"], settings.learn.batch_size
        generator = numpy_generator(settings.seed, "generated features", round, client.client_id)
        wanted, number = num_steps * batch_size, len(tensors["labels"])
        order = epoch_order(generator, number, epochs=1 + wanted // number).flatten()[:wanted]
        return Stream(tensors, order.reshape(num_steps, batch_size))
    prototypes, known = state.received["prototypes"]["prototypes"], state.received["prototypes"]["mask"]
    classes = torch.arange(len(known))
    # Known classes first, because padding repeats the first sample of its batch.
    known_first = torch.argsort(~known, stable=True)
    plan = torch.where(known[known_first], known_first, -1).expand(num_steps, -1)
    return Stream({"features": prototypes, "labels": classes}, plan, _constants(state))


def _constants(state: ClientState) -> Tensors:
    constants: dict[str, Tensor] = {}
    for carrier, mask in MASKS_BY_CARRIER.items():
        if carrier in state.received:
            received = state.received[carrier]
            constants |= {carrier: received[carrier], mask: received["mask"]}
    return constants


def train_states(verb: str, states: Sequence[ClientState], jobs: Sequence[FitJob], fit: Fit) -> list[ClientState]:
    """Run the jobs and put their results into the states.

    Raises
    ------
    DivergedError
        If a client's weights are no longer finite.
    """
    results = fit(jobs)
    if not all(parameters_are_finite(result.parameters) for result in results):
        raise DivergedError(f"weights are not finite after {verb}")
    return [
        replace(
            state,
            parameters=result.parameters,
            objective_state={**state.objective_state, verb: result.objective_state},
        )
        for state, result in zip(states, results, strict=True)
    ]
