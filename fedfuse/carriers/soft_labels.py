"""Class probabilities on the transfer set; what a client absorbs by distillation."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fedfuse.carriers.expectation import Expectation
from fedfuse.client.answer import answers
from fedfuse.client.client import Client, ClientSettings
from fedfuse.client.fit import Fit, FitJob, Term, batch_plan
from fedfuse.client.learn import train_states
from fedfuse.client.predict import predict
from fedfuse.client.rehearse import remember_shares, share_of_labels
from fedfuse.client.state import ClientState
from fedfuse.client.teach import Taught, label_stream, label_term, teach, transfer_stream, transfer_term
from fedfuse.configuration import CLOSED_FORM
from fedfuse.knowledge import InvalidKnowledgeError, Tensors
from fedfuse.memory import zeros
from fedfuse.messages import Request
from fedfuse.randomness import epoch_order, numpy_generator

# How far a row may sum from one: float16 and projection rounding stay below it.
SIMPLEX_TOLERANCE = 1e-3


def express(
    clients: Sequence[Client],
    states: Sequence[ClientState],
    requests: Sequence[Request],
    settings: ClientSettings,
) -> list[Tensors]:
    """Predict the rows of the transfer set that were asked for, with the ``share`` predictor.

    Returns
    -------
    list[Tensors]
        ``soft_labels`` ``[R, C]``, and ``rows`` (int32 ``[R]``) where they are not the whole set.
    """
    inputs = []
    for request in requests:
        if request.rows is None:
            raise InvalidKnowledgeError("soft labels were asked for without saying on which rows")
        whole = len(request.rows) == len(settings.transfer)
        inputs.append(settings.transfer.inputs if whole else settings.transfer.inputs[request.rows])
    outputs = predict(clients[0].architecture, [state.parameters for state in states], inputs)
    shared = answers(settings.predictors.share, clients, states, settings)
    return [
        pack(answer(own, asked), request.rows, len(settings.transfer))
        for answer, own, asked, request in zip(shared, outputs, inputs, requests, strict=True)
        if request.rows is not None
    ]


def pack(soft_labels: Tensor, rows: Tensor, num_transfer: int) -> dict[str, Tensor]:
    """Put soft labels ``[R, C]`` and their rows into the form that is encoded: rows only where they are not all."""
    if len(rows) == num_transfer:
        return {"soft_labels": soft_labels}
    return {"soft_labels": soft_labels, "rows": rows.to(torch.int32)}


def pack_fused(tensors: Tensors) -> Tensors:
    """Put a strategy's fused ``soft_labels`` ``[M, C]`` and ``mask`` ``[M]`` into the form that is encoded."""
    mask = tensors["mask"]
    if mask.all():
        return {"soft_labels": tensors["soft_labels"]}
    rows = torch.nonzero(mask).squeeze(1)
    return pack(tensors["soft_labels"][rows], rows, len(mask))


def check(tensors: Tensors, expected: Expectation) -> None:
    """Raise `InvalidKnowledgeError` unless these are probabilities on the rows that were asked for."""
    subset = len(expected.rows) != expected.num_transfer
    if set(tensors) != ({"soft_labels", "rows"} if subset else {"soft_labels"}):
        raise InvalidKnowledgeError(f"soft labels came as {sorted(tensors)}")
    soft_labels = tensors["soft_labels"]
    shape = (len(expected.rows), expected.num_classes)
    if soft_labels.shape != shape:
        raise InvalidKnowledgeError(f"soft labels have shape {list(soft_labels.shape)}, expected {list(shape)}")
    if soft_labels.dtype not in (torch.float32, torch.float64):
        raise InvalidKnowledgeError(f"soft labels have type {soft_labels.dtype}")
    if subset and not torch.equal(tensors["rows"].to(torch.int64), expected.rows):
        raise InvalidKnowledgeError("soft labels are on other transfer rows than were asked for")
    off = (soft_labels.sum(1) - 1).abs().max()
    if soft_labels.min() < -SIMPLEX_TOLERANCE or off > SIMPLEX_TOLERANCE:
        raise InvalidKnowledgeError("soft labels are off the simplex")


def stack(tensors: Iterable[Tensors], expected: Sequence[Expectation]) -> Tensors:
    """Stack checked soft labels of N clients, one after the other, so that what gives them up never holds them twice.

    Returns
    -------
    Tensors
        ``soft_labels`` ``[N, M, C]``, not negative, zero in rows that a client did not answer, and ``mask`` ``[N, M]``.
    """
    first = expected[0]
    mask = torch.zeros(len(expected), first.num_transfer, dtype=torch.bool)
    for position, (own, known) in enumerate(zip(tensors, expected, strict=True)):
        if position == 0:
            soft_labels = zeros(*mask.shape, first.num_classes, dtype=own["soft_labels"].dtype)
        # Rounding may have left a probability just below zero, of which a strategy must not take the logarithm.
        soft_labels[position, known.rows] = own["soft_labels"].to(soft_labels.dtype).clamp_min(0)
        mask[position, known.rows] = True
    return {"soft_labels": soft_labels, "mask": mask}


def absorb(
    clients: Sequence[Client],
    states: Sequence[ClientState],
    requests: Sequence[Request],
    settings: ClientSettings,
    fit: Fit,
) -> list[ClientState]:
    """Distil the fused soft labels into the models of a cohort, on the rows of the transfer set that carry them."""
    received = [_unpack((request.fused or {})["soft_labels"], settings) for request in requests]
    rounds = [request.fused_round for request in requests]
    lessons = teach(clients, states, received, "absorb", rounds, settings)
    jobs = [
        _job(client, state, taught, request.fused_round, settings)
        for client, state, taught, request in zip(clients, states, lessons, requests, strict=True)
    ]
    learnt = train_states("absorb", states, jobs, fit)
    if settings.absorb.rehearse == CLOSED_FORM:
        learnt = remember_shares(clients, states, learnt, settings)
    if not settings.keeps_fused_soft_labels:
        return learnt
    return [
        replace(state, received={**state.received, "soft_labels": {"soft_labels": soft_labels, "rows": rows}})
        for state, (soft_labels, rows) in zip(learnt, received, strict=True)
    ]


def _job(client: Client, state: ClientState, taught: Taught, round: int, settings: ClientSettings) -> FitJob:
    generator = numpy_generator(settings.seed, "absorb", round, client.client_id)
    rows = taught.lesson.rows
    order = rows[epoch_order(generator, len(rows), settings.absorb.epochs)]
    plan = batch_plan(order, settings.absorb.batch_size)
    own_share = share_of_labels(state, settings) if settings.absorb.rehearse else None
    fused_share = None if own_share is None else 1 - own_share
    streams = {"transfer": transfer_stream(client, state, taught, plan, fused_share, settings)}
    terms: tuple[Term, ...] = (transfer_term(settings, state),)
    if own_share is not None:
        batch_size = settings.learn.batch_size
        streams["private"] = label_stream(client, len(plan), batch_size, generator, own_share, settings)
        terms += (label_term(),)
    return FitJob(
        architecture=client.architecture,
        parameters=state.parameters,
        streams=streams,
        terms=terms,
        optimizer=settings.absorb.optimizer,
        objective_state={**state.objective_state, **taught.memory},
        proximal=settings.absorb.proximal,
    )


def _unpack(tensors: Tensors, settings: ClientSettings) -> tuple[Tensor, Tensor]:
    # Rows that carry nothing are uniform: harmless as a reference, and never trained on.
    num_transfer, num_classes = len(settings.transfer), settings.num_classes
    tensors = settings.encoding.decode(tensors, num_transfer, num_classes, settings.dtype)
    values = tensors["soft_labels"].to(settings.dtype)
    rows = tensors["rows"].to(torch.int64) if "rows" in tensors else torch.arange(num_transfer)
    fits = values.shape == (len(rows), num_classes)
    if not fits or (len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < num_transfer):
        raise InvalidKnowledgeError("fused soft labels do not fit this client's transfer set")
    if len(rows) == num_transfer:
        return values, rows
    soft_labels = torch.full((num_transfer, num_classes), 1 / num_classes, dtype=settings.dtype)
    soft_labels[rows] = values
    return soft_labels, rows
