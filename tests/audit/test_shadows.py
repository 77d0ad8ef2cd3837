from dataclasses import replace

import pytest
import torch

from fedfuse.audit.evidence import Witness
from fedfuse.audit.shadows import Course, live_together, without_protection
from fedfuse.encoding.float32 import FLOAT32
from fedfuse.encoding.uint8 import uint8
from fedfuse.engine.local_grid import LocalGrid
from fedfuse.messages import ABSORB, SHARE, Request
from fedfuse.privacy.noise import Noise
from fedfuse.privacy.swing import Swing

NUM_ROUNDS = 3


def run(clients, settings, fused_soft_labels):
    """Let clients go through real rounds, in which each gets fused soft labels of its own; return what was seen."""
    grid = LocalGrid(clients, settings)
    witness = Witness(grid, clients, settings)
    num_transfer = len(settings.transfer)
    for number in range(1, NUM_ROUNDS + 1):
        asked = torch.arange(num_transfer) if number != 2 else torch.tensor([1, 4, 7])
        requests = {one.client_id: Request(number, sends=("soft_labels",), rows=asked) for one in clients}
        send(witness, SHARE, requests)
        tensors = {
            one.client_id: settings.encoding.encode(
                fused_soft_labels(rows=[0, 3, 5], seed=10 * number + one.client_id), num_transfer
            )
            for one in clients
        }
        requests = {
            own: Request(number, fused={"soft_labels": fused}, fused_round=number) for own, fused in tensors.items()
        }
        send(witness, ABSORB, requests)
    return witness


def send(grid, kind, requests):
    messages = [grid.create_message(one.to_record(), kind, own + 1, "") for own, one in requests.items()]
    replies = grid.send_and_receive(messages)
    assert not any(reply.has_error() for reply in replies)


@pytest.mark.parametrize(
    "changes", [{}, {"protectors": (Noise(0.1),)}, {"protectors": (Swing(),)}, {"encoding": uint8(510, True)}], ids=str
)
def test_a_shadow_with_data_and_id_of_the_attacked_client_becomes_and_sends_the_same(
    make_clients, make_settings, fused_soft_labels, changes
):
    clients, settings = make_clients(sizes=(5, 16, 9, 7)), make_settings(**changes)
    witness = run(clients, settings, fused_soft_labels)
    courses = [Course(tuple(rows for rows, _ in witness.shared[n]), witness.fused[n]) for n in range(4)]
    lived = live_together(clients, courses, settings, "auto")
    for number, own in enumerate(lived):
        assert len(own.shared) == NUM_ROUNDS
        for (rows, sent), (true_rows, truly_sent) in zip(own.shared, witness.shared[number], strict=True):
            assert torch.equal(rows, true_rows)
            torch.testing.assert_close(sent, truly_sent)
        state = witness.states[number]
        assert own.state.absorbed_round == state.absorbed_round == NUM_ROUNDS
        for name, tensor in state.parameters.items():
            torch.testing.assert_close(own.state.parameters[name], tensor)


def test_shadows_may_have_courses_of_different_lengths(make_clients, make_settings, fused_soft_labels):
    clients, settings = make_clients(names=("small",), sizes=(5, 8)), make_settings()
    rows = torch.arange(len(settings.transfer))
    fused = (rows, fused_soft_labels()["soft_labels"])
    short, long = Course((rows,), (fused,)), Course((rows, rows), (fused,))
    lived = live_together(clients, [short, long], settings, "sequential")
    assert [len(one.shared) for one in lived] == [1, 2]
    alone = live_together(clients[:1], [short], settings, "sequential")
    torch.testing.assert_close(lived[0].state.parameters, alone[0].state.parameters)


def test_nothing_protects_the_control_and_it_learns_as_long_as_it_is_told(make_settings):
    settings = make_settings(protectors=(Noise(0.1),), encoding=uint8(510, True))
    settings = replace(settings, learn=replace(settings.learn, proximal=0.5, rehearse=0.3))
    control = without_protection(settings, epochs=9)
    assert (control.protectors, control.encoding) == ((), FLOAT32)
    assert control.learn == replace(settings.learn, epochs=9, proximal=0.0, rehearse=0.0)
    assert control.absorb == settings.absorb
