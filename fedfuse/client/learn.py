"""The first verb: train on private data."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fedfuse.client.client import Client, ClientSettings
from fedfuse.client.fit import Fit, FitJob, Stream, Term, batch_plan
from fedfuse.client.learn_privately import private_jobs, private_training
from fedfuse.client.state import ClientState, parameters_are_finite
from fedfuse.client.teach import Taught, repeated_plan, scaled, teach, transfer_stream, transfer_term
from fedfuse.knowledge import Tensors
from fedfuse.objectives.cross_entropy import CrossEntropy
from fedfuse.objectives.objective import head_part_of, part_for
from fedfuse.randomness import epoch_order, numpy_generator

# Knowledge of classes that an objective learns from, and what the objective calls the mask of those that are known.
MASKS_BY_CARRIER = {"prototypes": "prototype_mask", "class_logits": "class_logits_mask"}
LEARNT_FROM = (*MASKS_BY_CARRIER, "generated", "private_soft_labels")
# What clients learn from when they absorb; again beside their own labels, with ``learn.rehearse``.
REHEARSED = ("soft_labels", "relations")


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
    of the feature space too. With ``learn.rehearse`` above 0, every step also learns from the fused soft labels of
    transfer samples that were received last; that share of the loss is theirs. Where a protector trains privately, see
    `fedfuse.client.learn_privately`.

    Raises
    ------
    DivergedError
        If a client's weights are no longer finite.
    """
    protector = private_training(settings)
    if protector is not None:
        private, states = private_jobs(protector, clients, states, round, settings)
        return train_states("learn", states, private, fit)
    learnt = list(states)
    # Jobs that run together have the same terms and constants, so clients run apart by what they received.
    used = (*LEARNT_FROM, *REHEARSED) if settings.learn.rehearse else LEARNT_FROM
    kinds = [tuple(carrier for carrier in used if _has(state, carrier)) for state in states]
    for kind in sorted(set(kinds)):
        rows = [row for row, own in enumerate(kinds) if own == kind]
        some, their_states = [clients[row] for row in rows], [states[row] for row in rows]
        lessons: Sequence[Taught | None] = [None] * len(rows)
        if "soft_labels" in kind:
            kept = [state.received["soft_labels"] for state in their_states]
            fused = [(tensors["soft_labels"], tensors["rows"]) for tensors in kept]
            lessons = teach(some, their_states, fused, "learn", [round] * len(rows), settings)
        jobs = [
            _job(client, state, taught, round, settings)
            for client, state, taught in zip(some, their_states, lessons, strict=True)
        ]
        for row, state in zip(rows, train_states("learn", their_states, jobs, fit), strict=True):
            learnt[row] = state
    return learnt


def _has(state: ClientState, carrier: str) -> bool:
    # Of fused soft labels there may be none that anybody answered.
    return carrier in state.received and (carrier != "soft_labels" or len(state.received[carrier]["rows"]) > 0)


def _job(client: Client, state: ClientState, taught: Taught | None, round: int, settings: ClientSettings) -> FitJob:
    train = client.data.train
    generator = numpy_generator(settings.seed, "learn", round, client.client_id)
    order = epoch_order(generator, len(train), settings.learn.epochs)
    plan = batch_plan(order, settings.learn.batch_size)
    fused_share = None if taught is None else float(settings.learn.rehearse)
    own_share = None if fused_share is None else 1 - fused_share
    knowledge = _constants(state)
    soft_labels = state.received.get("private_soft_labels", {})
    streams = {
        "private": Stream(
            tensors={"inputs": train.inputs, "labels": train.labels, **soft_labels},
            plan=plan,
            constants=scaled(knowledge, own_share, settings),
        )
    }
    terms: tuple[Term, ...] = (Term("private", CrossEntropy()),)
    of_classes = part_for(settings.objective, {"labels", *knowledge, *soft_labels})
    if (knowledge or soft_labels) and of_classes is not None:
        terms += (Term("private", of_classes, on_fused_head=True),)
    of_head = head_part_of(settings.objective)
    if of_head is not None and (knowledge or "generated" in state.received):
        streams["head"] = _head_stream(client, state, round, settings, len(plan))
        terms += (Term("head", of_head),)
    if taught is not None:
        rows = taught.lesson.rows
        visits = repeated_plan(len(rows), len(plan), settings.absorb.batch_size, generator)
        streams["transfer"] = transfer_stream(client, state, taught, rows[visits], fused_share, settings)
        terms += (transfer_term(settings, state),)
    return FitJob(
        architecture=client.architecture,
        parameters=state.parameters,
        streams=streams,
        terms=terms,
        optimizer=settings.learn.optimizer,
        objective_state={**state.objective_state, **(taught.memory if taught else {})},
        proximal=settings.learn.proximal,
    )


def _head_stream(client: Client, state: ClientState, round: int, settings: ClientSettings, num_steps: int) -> Stream:
    """Let every step take a batch of what was generated; or else the prototypes of all known classes, as samples."""
    if "generated" in state.received:
        tensors, batch_size = state.received["generated"], settings.learn.batch_size
        generator = numpy_generator(settings.seed, "generated features", round, client.client_id)
        return Stream(tensors, repeated_plan(len(tensors["labels"]), num_steps, batch_size, generator))
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
            objective_state={**job.objective_state, **result.objective_state},
        )
        for state, job, result in zip(states, jobs, results, strict=True)
    ]
