"""Worker processes are started for real, as seldom as possible: each start takes some seconds."""

import math
import os
import signal
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from dying import Dying
from flwr.app import Message, RecordDict
from states import states_in, states_of

from fedfuse.client import phases
from fedfuse.client.state import SHARED
from fedfuse.client.state_file import StateFile
from fedfuse.configuration import EngineSettings
from fedfuse.device import Device
from fedfuse.engine import workers as module
from fedfuse.engine.local_grid import LocalGrid
from fedfuse.engine.workers import WorkerError, Workers, choose_number, deal
from fedfuse.errors import ConfigurationError
from fedfuse.messages import ABSORB, DESCRIBE, SHARE, Description, Reply, Request
from fedfuse.privacy.noise import Noise

PATIENCE = 60  # seconds for a process to end
NAMES = ("small", "cnn")  # the first is stacked where the runner is ``auto``, the second never


def ask(grid, kind, request, clients=range(5)):
    """Return the replies by client id, without their times."""
    messages = [Message(request.to_record(), client + 1, kind) for client in clients]
    answers = {}
    for reply in grid.send_and_receive(messages):
        client = reply.metadata.src_node_id - 1
        if "failure" in reply.content:
            answers[client] = reply.content.config_records["failure"]["code"]
        else:
            answers[client] = replace(Reply.from_record(reply.content), seconds=None)
    assert list(answers) == list(clients)
    return answers


def assert_bitwise(answers, others):
    assert answers.keys() == others.keys()
    for client, answer in answers.items():
        other = others[client]
        if isinstance(answer, str) or answer.knowledge is None:
            assert answer == other
            continue
        assert replace(answer, knowledge=None) == replace(other, knowledge=None)
        own, theirs = answer.knowledge.carriers, other.knowledge.carriers
        assert own.keys() == theirs.keys()
        for carrier, tensors in own.items():
            assert all(torch.equal(tensor, theirs[carrier][name]) for name, tensor in tensors.items())


def rounds_of(grid, numbers, share_request, fused_soft_labels):
    """Run rounds and return all answers in order."""
    answers = []
    for number in numbers:
        answers.append(ask(grid, SHARE, share_request(number, sends=("soft_labels", "prototypes"))))
        fused = {"soft_labels": fused_soft_labels(seed=number)}
        answers.append(ask(grid, ABSORB, Request(number, fused=fused, fused_round=number)))
    return answers


def assert_same_states(states, others):
    assert states.keys() == others.keys()
    for client, moments in states.items():
        assert [moment[:2] for moment in moments] == [moment[:2] for moment in others[client]]
        for (*_, own), (*_, theirs) in zip(moments, others[client], strict=True):
            assert own["parameters"].keys() == theirs["parameters"].keys()
            assert all(torch.equal(tensor, theirs["parameters"][name]) for name, tensor in own["parameters"].items())


def is_over(process):
    """Tell whether a process that this one has waited for is gone."""
    return process.returncode is not None


def open_descriptors():
    return set(Path("/proc/self/fd").iterdir())


# -- processes ---------------------------------------------------------------------------------------------------------


def test_workers_answer_bitwise_what_one_process_does_and_a_killed_one_is_named_and_replaced(
    tmp_path, make_clients, make_settings, share_request, fused_soft_labels, caplog
):
    clients, settings = make_clients(NAMES, dtype=torch.float32), make_settings(torch.float32, protectors=(Noise(),))
    clients[3].data.train.inputs[3] = math.nan
    told, engine, path = [], EngineSettings(workers=2), tmp_path / "states.sqlite"
    alone = LocalGrid(clients, settings)
    with Workers(clients, settings, engine, 2, path, lambda *verb: told.append(verb)) as workers:
        processes = [worker.process for worker in workers._workers]
        grid = LocalGrid(clients, settings, workers=workers)
        described = grid.send_and_receive([Message(RecordDict(), node, DESCRIBE) for node in (2, 1)])
        assert [Description.from_record(reply.content) for reply in described] == [
            phases.describe(client, settings) for client in clients[:2]
        ]
        expected = rounds_of(alone, (1, 2), share_request, fused_soft_labels)
        answers = rounds_of(grid, (1, 2), share_request, fused_soft_labels)
        for own, others in zip(answers, expected, strict=True):
            assert_bitwise(own, others)
        assert [code for code in answers[0].values() if isinstance(code, str)] == ["diverged"]
        # Logged by the worker, and before that by the process that did it all.
        failures = [record.getMessage().splitlines()[0] for record in caplog.records]
        assert failures.count("client 3 failed in round 1") == 4
        assert all(total == 5 and 0 <= done < total for _, done, total in told)
        assert {name for name, _, _ in told} == {"absorb", "learn", "express", "protect", "evaluate"}

        # What one process keeps, the file has before anybody commits.
        assert states_of(grid.store, range(5)) == {}
        assert_same_states(states_in(path, range(5)), states_of(alone.store, range(5)))

        caplog.clear()
        victim = next(worker for worker in workers._workers if 1 in worker.duty.client_ids)
        lost = sorted(victim.duty.client_ids)
        others = [client for client in range(5) if client not in lost]
        victim.process.send_signal(signal.SIGKILL)
        victim.process.wait()
        answers = ask(grid, SHARE, share_request(3))
        assert {client: answers[client] for client in lost} == dict.fromkeys(lost, "died")
        assert_bitwise({client: answers[client] for client in others}, ask(alone, SHARE, share_request(3), others))
        assert [record.getMessage() for record in caplog.records if record.name == module.__name__] == [
            f"worker {victim.number} died (SIGKILL), perhaps for lack of memory; it is started again, and without an "
            f"answer in this phase are its clients {', '.join(map(str, lost))}"
        ]
        processes += [worker.process for worker in workers._workers if worker.process not in processes]
        assert len(processes) == 3
        for own, others in zip(
            rounds_of(grid, (4,), share_request, fused_soft_labels),
            rounds_of(alone, (4,), share_request, fused_soft_labels),
            strict=True,
        ):
            assert_bitwise(own, others)
    assert all(map(is_over, processes))
    with closing(StateFile(path)) as states:
        here = LocalGrid(clients, settings, store=states)
        assert_bitwise(ask(here, SHARE, share_request(5)), ask(alone, SHARE, share_request(5)))


def test_a_worker_that_is_killed_in_a_phase_is_missed_in_that_phase_alone(
    tmp_path, make_clients, make_settings, share_request, caplog
):
    (tmp_path / "calls").mkdir()
    clients, settings = make_clients(("cnn",)), make_settings(protectors=(Dying(str(tmp_path / "calls"), 2),))
    path = tmp_path / "states.sqlite"
    with closing(StateFile(path)) as states:
        before = LocalGrid(clients, make_settings(), store=states)
        ask(before, SHARE, share_request(1))
        states.commit()
    before = LocalGrid(clients, make_settings())
    ask(before, SHARE, share_request(1))
    with Workers(clients, settings, EngineSettings(), 1, path) as workers:
        # A run that one process has begun goes on in workers.
        grid = LocalGrid(clients, settings, workers=workers)
        assert ask(grid, SHARE, share_request(2), [0, 2]) == {0: "died", 2: "died"}
        assert "worker 1 died (SIGKILL)" in caplog.text
        # Client 0 had finished, but what was not answered was not written either.
        assert [moments[-1][:2] for moments in states_in(path, (0, 2)).values()] == [(1, SHARED), (1, SHARED)]
        again = ask(grid, SHARE, share_request(2), [0, 2])
        assert_bitwise(again, ask(before, SHARE, share_request(2), [0, 2]))

        # Whoever waits for an answer can be interrupted; the context then ends all.
        def interrupt(*verb):
            raise KeyboardInterrupt

        workers._verb = interrupt
        (process,) = (worker.process for worker in workers._workers)
        with pytest.raises(KeyboardInterrupt):
            ask(grid, SHARE, share_request(3))
        # Without the process of the run there is nobody to work for.
        workers._workers[0].post._connection.close()
        assert process.wait(PATIENCE) == 0


def test_a_part_that_a_worker_does_not_find_is_named_in_one_line(
    tmp_path, make_clients, make_settings, share_request, monkeypatch
):
    only_here = ModuleType("only_here")
    exec("class Protector:\n    carrier = 'soft_labels'\n    needs_reference = False", only_here.__dict__)
    monkeypatch.setitem(sys.modules, "only_here", only_here)
    clients, settings = make_clients(NAMES), make_settings(protectors=(only_here.Protector(),))
    with Workers(clients, settings, EngineSettings(), 1, tmp_path / "states.sqlite") as workers:
        (process,) = (worker.process for worker in workers._workers)
        with pytest.raises(WorkerError) as caught:
            workers.answer(SHARE, {1: share_request(1).to_record()})
    assert str(caught.value) == (
        "Worker 1 cannot start: ModuleNotFoundError: No module named 'only_here'; see engine.workers."
    )
    assert is_over(process)


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("/bin/false", "Worker 1 ended (exit code 1) before it could work; see engine.workers."),
        ("/nowhere/python", "Worker 1 cannot start: "),
    ],
)
def test_a_worker_that_cannot_start_is_one_line(
    tmp_path, make_clients, make_settings, share_request, monkeypatch, program, expected
):
    monkeypatch.setattr(sys, "executable", program)
    descriptors = open_descriptors()
    clients, settings = make_clients(NAMES), make_settings()
    with (
        pytest.raises(WorkerError) as caught,
        Workers(clients, settings, EngineSettings(), 1, tmp_path / "states.sqlite") as workers,
    ):
        workers.answer(SHARE, {1: share_request(1).to_record()})
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)
    assert open_descriptors() == descriptors


def test_what_cannot_be_handed_to_a_process_is_one_line(tmp_path, make_clients, make_settings):
    settings = make_settings(protectors=(lambda soft_labels: soft_labels,))
    with pytest.raises(ConfigurationError, match=r"cannot be handed to worker processes .*; engine\.workers=1 does"):
        Workers(make_clients(NAMES), settings, EngineSettings(), 1, tmp_path / "states.sqlite")


# -- how many, and who has whom ----------------------------------------------------------------------------------------


def client_ids(hands):
    return [[client.client_id for client in hand] for hand in hands]


def test_clients_that_are_trained_together_go_to_one_worker_and_the_others_where_least_is_to_do(
    make_clients, make_settings
):
    settings = make_settings()
    clients = make_clients(NAMES, sizes=(10, 30, 10, 20, 10, 5))
    together, alone = client_ids(deal(clients, settings, "auto", 2))
    assert sorted(together + alone) == [0, 1, 2, 3, 4, 5]
    assert {0, 2, 4} <= set(together) or {0, 2, 4} <= set(alone)
    same = make_clients(("cnn",), sizes=(10, 90, 30, 40, 10))  # beside 2 * 10 samples of transfer each
    assert client_ids(deal(same, settings, "auto", 2)) == [[1, 4], [0, 2, 3]]
    assert client_ids(deal(same, settings, "auto", 9))[:5] == [[1], [3], [2], [0], [4]]


def test_stacked_clients_leave_as_many_workers_as_there_are_architectures(make_clients, make_settings):
    settings, engine = make_settings(), EngineSettings(workers=9)
    clients = make_clients(NAMES)

    def number(runner, of=clients):
        return choose_number(replace(engine, runner=runner), of, settings, 1, Device())

    assert number("sequential") == 5
    assert number("stacked") == 2
    assert number("auto") == 3
    assert number("auto", make_clients(("small",))) == 1


def client_with(flops, samples=50):
    architecture = SimpleNamespace(
        signature="-", flops=flops, layer_types={"Conv2d"}, ties_parameters=False, can_be_stacked=False
    )
    return SimpleNamespace(architecture=architecture, data=SimpleNamespace(train=range(samples)))


def test_by_default_all_cores_are_used_where_the_configured_work_is_worth_it(make_settings, monkeypatch):
    settings = make_settings()  # two epochs each, 10 transfer samples
    monkeypatch.setattr(module, "num_cores", lambda: 6)
    operations = 3 * (2 * 50 + 2 * 10)
    flops = math.ceil(module.LEAST_OF_A_CLIENT / operations)
    num_rounds = math.ceil(module.LEAST_OPERATIONS / (8 * operations * flops))

    def number(flops=flops, num_rounds=num_rounds, **engine):
        clients = [SimpleNamespace(client_id=row, **vars(client_with(flops))) for row in range(8)]
        return choose_number(EngineSettings(**engine), clients, settings, num_rounds, Device())

    assert number() == 6
    assert number(num_rounds=num_rounds - 1) == 1
    assert number(flops=flops - 1, num_rounds=10**6) == 1
    assert number(threads=2) == 3
    assert number(threads=9) == 1
    assert number(workers=2, num_rounds=1) == 2
    assert number(workers=20) == 8


def test_the_cores_are_those_that_this_process_may_use():
    assert module.num_cores() == len(os.sched_getaffinity(0))


def test_one_process_computes_on_a_cuda_device(make_clients, make_settings):
    clients, settings, cuda = make_clients(NAMES), make_settings(), SimpleNamespace(is_cuda=True)
    assert choose_number(EngineSettings(device="auto"), clients, settings, 10**12, cuda) == 1
    assert choose_number(EngineSettings(device="auto", workers=1), clients, settings, 1, cuda) == 1
    with pytest.raises(ConfigurationError, match=r"engine.workers=2 is for device=cpu"):
        choose_number(EngineSettings(device="auto", workers=2), clients, settings, 1, cuda)
