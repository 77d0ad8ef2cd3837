"""The first verb: train on private data."""

from collections.abc import Sequence
from dataclasses import replace

from fedfuse.client.client import Client, ClientSettings
from fedfuse.client.fit import Fit, FitJob, Stream, Term, batch_plan
from fedfuse.client.state import ClientState, parameters_are_finite
from fedfuse.objectives.cross_entropy import CrossEntropy
from fedfuse.randomness import epoch_order, numpy_generator


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

    The loss is cross-entropy; where prototypes were received, the objective pulls towards them in every step.

    Raises
    ------
    DivergedError
        If a client's weights are no longer finite.
    """
    learnt = list(states)
    # Jobs that run together have the same terms, so clients with and without prototypes run apart.
    for received in (False, True):
        rows = [row for row, state in enumerate(states) if ("prototypes" in state.received) == received]
        jobs = [_job(clients[row], states[row], round, settings) for row in rows]
        for row, state in zip(rows, train_states("learn", [states[row] for row in rows], jobs, fit), strict=True):
            learnt[row] = state
    return learnt


def _job(client: Client, state: ClientState, round: int, settings: ClientSettings) -> FitJob:
    train = client.data.train
    generator = numpy_generator(settings.seed, "learn", round, client.client_id)
    order = epoch_order(generator, len(train), settings.learn.epochs)
    prototypes = state.received.get("prototypes")
    stream = Stream(
        tensors={"inputs": train.inputs, "labels": train.labels},
        plan=batch_plan(order, settings.learn.batch_size),
        constants={}
        if prototypes is None
        else {"prototypes": prototypes["prototypes"], "prototype_mask": prototypes["mask"]},
    )
    terms: tuple[Term, ...] = (Term("private", CrossEntropy()),)
    if prototypes is not None:
        terms += (Term("private", settings.objective),)
    return FitJob(
        architecture=client.architecture,
        parameters=state.parameters,
        streams={"private": stream},
        terms=terms,
        optimizer=settings.learn.optimizer,
        objective_state=state.objective_state.get("learn", {}),
    )


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
