"""Shadow clients: an attacker's own clients, which go through the rounds of the client that is attacked."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from fedfuse.audit.audit import Answers
from fedfuse.carriers.soft_labels import pack
from fedfuse.client.absorb import absorb
from fedfuse.client.client import Client, ClientSettings, first_state
from fedfuse.client.fit import Fit
from fedfuse.client.phases import share
from fedfuse.client.state import ClientState
from fedfuse.device import current_device
from fedfuse.encoding.float32 import FLOAT32
from fedfuse.engine.runner import choose_runner
from fedfuse.knowledge import Tensors
from fedfuse.messages import Request
from fedfuse.stopwatch import Stopwatch


@dataclass(frozen=True, eq=False)
class Course:
    """What a server asks of a client and gives it, a round after the other.

    Parameters
    ----------
    asked : tuple[Tensor, ...]
        The rows of the transfer set that the client answers, int64 ``[R]``.
    fused : tuple[Answers, ...]
        The fused soft labels that it absorbs afterwards; those of the last rounds may be missing.
    """

    asked: tuple[Tensor, ...]
    fused: tuple[Answers, ...] = ()


@dataclass(frozen=True, eq=False)
class Lived:
    """What a shadow client has sent, a round after the other, and what it has become."""

    shared: tuple[Answers, ...]
    state: ClientState


def live_together(
    clients: Sequence[Client], courses: Sequence[Course], settings: ClientSettings, runner: str
) -> list[Lived]:
    """Let clients take their courses: in every round learn, express, protect, and absorb what came back.

    Parameters
    ----------
    clients : Sequence[Client]
        Their draws follow from their ids, which should be no client's of the run.
    courses : Sequence[Course]
        One for each client.
    settings : ClientSettings
        How they work, protectors included.
    runner : str
        See `fedfuse.engine.runner.choose_runner`; clients of one architecture are trained together.

    Returns
    -------
    list[Lived]
        In the order of the clients.
    """
    cohorts: dict[str, list[int]] = {}
    for row, client in enumerate(clients):
        cohorts.setdefault(client.architecture.signature, []).append(row)
    lived: dict[int, Lived] = {}
    for rows in cohorts.values():
        fit = choose_runner(runner, clients[rows[0]].architecture, current_device().is_cuda)
        some = _live([clients[row] for row in rows], [courses[row] for row in rows], settings, fit)
        lived |= zip(rows, some, strict=True)
    return [lived[row] for row in range(len(clients))]


def _live(clients: Sequence[Client], courses: Sequence[Course], settings: ClientSettings, fit: Fit) -> list[Lived]:
    """Let clients of one architecture take their courses."""
    states = [first_state(client, settings) for client in clients]
    shared: list[list[Answers]] = [[] for _ in clients]
    for number in range(max(len(course.asked) for course in courses)):
        rows = [row for row, course in enumerate(courses) if number < len(course.asked)]
        requests = [_request(courses[row], number, settings) for row in rows]
        some, their_states = [clients[row] for row in rows], [states[row] for row in rows]
        answers = share(some, their_states, requests, settings, fit, Stopwatch())
        for row, answer in zip(rows, answers, strict=True):
            states[row] = answer.state
            assert answer.reply.knowledge is not None, "who shares sends knowledge"
            sent = _decode(answer.reply.knowledge.carriers["soft_labels"], settings)
            shared[row].append((courses[row].asked[number], sent))
    last = [_request(course, len(course.asked), settings) for course in courses]
    states = absorb(clients, states, last, settings, fit)
    return [Lived(tuple(own), state) for own, state in zip(shared, states, strict=True)]


def _request(course: Course, number: int, settings: ClientSettings) -> Request:
    """Ask for the answers of a round, if there is one, and give what was fused in the round before."""
    asked = course.asked[number] if number < len(course.asked) else None
    request = Request(round=number + 1, sends=("soft_labels",), rows=asked)
    if not 1 <= number <= len(course.fused):
        return request
    rows, soft_labels = course.fused[number - 1]
    packed = pack(soft_labels, rows, len(settings.transfer))
    fused = {"soft_labels": settings.encoding.encode(packed, len(settings.transfer))}
    return Request(request.round, sends=request.sends, rows=asked, fused=fused, fused_round=number)


def _decode(tensors: Tensors, settings: ClientSettings) -> Tensor:
    decoded = settings.encoding.decode(tensors, len(settings.transfer), settings.num_classes, settings.dtype)
    return decoded["soft_labels"].to(settings.dtype)


def without_protection(settings: ClientSettings, epochs: int) -> ClientSettings:
    """Return the settings of a positive control: clients that learn by heart, and send what they have learnt as it is.

    Parameters
    ----------
    settings : ClientSettings
        How the clients of the run work.
    epochs : int
        How often each sample is seen.
    """
    learn = replace(settings.learn, epochs=epochs, proximal=0.0, rehearse=0.0)
    return replace(settings, learn=learn, protectors=(), encoding=FLOAT32)
