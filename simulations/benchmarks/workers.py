"""What two worker processes gain over one, beside what two processes gain that only multiply matrices.

    OMP_NUM_THREADS=1 PYTHONPATH=. python simulations/benchmarks/workers.py [--output FILE.json]

A round is both phases of all clients with their messages, and with all that makes their states last. The images are
noise, because only their shapes matter here.
"""

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from flwr.app import Message

from fedfuse.checkpoint import save_checkpoint
from fedfuse.client.client import Client, ClientSettings, Predictors
from fedfuse.client.state_file import StateFile
from fedfuse.configuration import EngineSettings, OptimizerSettings, TrainingSettings
from fedfuse.data.federation import ClientData, TransferSet
from fedfuse.data.samples import Samples
from fedfuse.engine.local_grid import LocalGrid
from fedfuse.engine.workers import Workers
from fedfuse.messages import ABSORB, SHARE, Request
from fedfuse.models.architecture import describe
from fedfuse.models.lenet import LeNet
from fedfuse.models.mlp import MLP
from fedfuse.objectives.kd import KD
from fedfuse.predictors.plain_head import PlainHead

SHAPE, NUM_CLASSES = (1, 28, 28), 10
SAMPLES, NUM_TRANSFER, BATCH_SIZE, EPOCHS = 200, 500, 32, 1
REPEATS = 3
MATRIX_SIDE, PRODUCTS = 1024, 30


@dataclass(frozen=True)
class Case:
    """Clients with models in turn, and how they are trained."""

    models: tuple[Callable[[], torch.nn.Module], ...]
    num_clients: int
    runner: str


CASES = {
    "LeNet": Case((partial(LeNet, SHAPE, NUM_CLASSES),), 20, "auto"),
    "mlp, one by one": Case((partial(MLP, SHAPE, NUM_CLASSES, hidden=(200,)),), 100, "sequential"),
    "two mlps, stacked": Case(
        tuple(partial(MLP, SHAPE, NUM_CLASSES, hidden=(width,)) for width in (128, 120)), 100, "auto"
    ),
}


def main() -> None:
    """Measure all, print a table, and write the numbers."""
    parser = argparse.ArgumentParser(description="Measure worker processes.")
    parser.add_argument("--output", type=Path, help="where to write the numbers as JSON")
    output = parser.parse_args().output
    torch.set_num_threads(1)
    print("clients                 1 worker (s)  2 workers (s)  ratio (smallest to largest)  matrix products beside")
    rows = []
    with multiprocessing.get_context("spawn").Pool(2, torch.set_num_threads, (1,)) as pool:
        for name, case in CASES.items():
            rows.append({"clients": f"{case.num_clients} {name}"} | measure(case, pool.map))
            print(line(rows[-1]), flush=True)
    if output is not None:
        output.write_text(json.dumps({"torch": torch.__version__, "rows": rows}, indent=1) + "\n")


def line(row: dict[str, Any]) -> str:
    """Write one line of the table."""
    ratios = [alone / together for alone, together in zip(row["alone"], row["together"], strict=True)]
    between = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    control = f"{statistics.median(row['control']):.2f} ({min(row['control']):.2f} to {max(row['control']):.2f})"
    alone, together = statistics.median(row["alone"]), statistics.median(row["together"])
    return f"{row['clients']:<23} {alone:<13.3f} {together:<14.3f} {between:<28} {control}"


def measure(case: Case, spread: Callable[..., list[float]]) -> dict[str, Any]:
    """Time rounds in this process, with two workers, and matrix products, one after the other again and again."""
    clients, settings = make_clients(case)
    alone: list[float] = []
    together: list[float] = []
    control: list[float] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        engine = EngineSettings(runner=case.runner, workers=2)
        states = stack.enter_context(closing(StateFile(folder / "alone.sqlite")))
        workers = stack.enter_context(Workers(clients, settings, engine, 2, folder / "together.sqlite"))
        here = LocalGrid(clients, settings, case.runner, store=states)
        there = LocalGrid(clients, settings, case.runner, workers=workers)
        for number in range(REPEATS + 1):  # the first warms up
            seconds = [
                run_round(here, number + 1, folder, states.commit),
                run_round(there, number + 1, folder, None),
            ]
            one, two = (products(spread, processes) for processes in (1, 2))
            if number > 0:
                alone.append(seconds[0])
                together.append(seconds[1])
                control.append(2 * one / two)
    return {"alone": alone, "together": together, "control": control}


def run_round(grid: LocalGrid, number: int, folder: Path, commit: Callable[[], None] | None) -> float:
    """Let all clients share and absorb, and keep their states; return the seconds."""
    fused = torch.softmax(torch.randn(NUM_TRANSFER, NUM_CLASSES), 1)
    share = Request(number, sends=("soft_labels",), rows=torch.arange(NUM_TRANSFER))
    absorb = Request(number, fused={"soft_labels": {"soft_labels": fused}}, fused_round=number)
    start = time.perf_counter()
    for kind, request in ((SHARE, share), (ABSORB, absorb)):
        messages = [Message(request.to_record(), node, kind) for node in grid.get_node_ids()]
        replies = grid.send_and_receive(messages)
        assert not any("failure" in reply.content for reply in replies), "every client answers"
        save_checkpoint(folder, {}, commit)
    return time.perf_counter() - start


def products(spread: Callable[..., list[float]], processes: int) -> float:
    """Return the seconds that so many processes take, each for as many products of matrices."""
    start = time.perf_counter()
    spread(multiply, [PRODUCTS] * processes, 1)
    return time.perf_counter() - start


def multiply(number: int) -> None:
    """Multiply two matrices so many times."""
    matrix = torch.rand(MATRIX_SIDE, MATRIX_SIDE)
    result = torch.empty_like(matrix)
    for _ in range(number):
        torch.mm(matrix, matrix, out=result)


def make_clients(case: Case) -> tuple[list[Client], ClientSettings]:
    """Make clients with noise for images."""
    generator = torch.Generator().manual_seed(0)

    def samples(number: int) -> Samples:
        inputs = torch.rand(number, *SHAPE, generator=generator)
        return Samples(inputs, torch.randint(NUM_CLASSES, (number,), generator=generator))

    architectures = [describe("model", model, SHAPE, NUM_CLASSES) for model in case.models]
    clients = [
        Client(
            number, architectures[number % len(architectures)], ClientData(samples(SAMPLES), samples(20), samples(40))
        )
        for number in range(case.num_clients)
    ]
    training = TrainingSettings(EPOCHS, BATCH_SIZE, OptimizerSettings("sgd", lr=0.01))
    plain = PlainHead()
    settings = ClientSettings(
        seed=0,
        dtype=torch.float32,
        class_names=tuple("0123456789"),
        transfer=TransferSet(samples(NUM_TRANSFER).inputs),
        global_test=None,
        learn=training,
        absorb=replace(training),
        objective=KD(),
        predictors=Predictors(plain, plain, plain),
        protectors=(),
        share_facts=frozenset({"test_metrics"}),
    )
    return clients, settings


if __name__ == "__main__":
    main()
