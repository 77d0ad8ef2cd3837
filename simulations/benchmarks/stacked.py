"""How long small perceptrons train: a plain loop over clients, and the project's runners.

    OMP_NUM_THREADS=1 PYTHONPATH=. python simulations/benchmarks/stacked.py [--output FILE.json]

One epoch in batches of 32 with SGD and momentum. The plain loop trains each client with a DataLoader over a list of its
samples, an nn.Module and torch.optim, as PFLlib does. All ways take turns in one process, on one thread, and the time
is the processor's, which leaves out the turns of other processes. Compare ratios, not times.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from fedfuse.client.fit import FitJob, Stream, Term, batch_plan
from fedfuse.configuration import OptimizerSettings
from fedfuse.device import Device
from fedfuse.engine import perceptron, sequential, stacked
from fedfuse.models.architecture import Architecture, describe
from fedfuse.models.mlp import MLP
from fedfuse.objectives.cross_entropy import CrossEntropy
from fedfuse.objectives.kd import KD

NUM_CLASSES, BATCH_SIZE = 10, 32
SAMPLES, TRANSFER_SAMPLES = 200, 500
OPTIMIZER = OptimizerSettings("sgd", lr=0.01, momentum=0.9)
MODELS = {
    "mlp64": ((64,), partial(MLP, (64,), NUM_CLASSES, hidden=(64,), embedding_size=32)),
    "mlp784": ((784,), partial(MLP, (784,), NUM_CLASSES, hidden=(), embedding_size=200)),
}
WORKS = (("mlp64", "local training"), ("mlp64", "distillation"), ("mlp784", "local training"))
NUM_CLIENTS = (10, 100, 1000)
# What takes long for many clients is measured for some of them, and the time multiplied.
MOST_ONE_BY_ONE = 100
MATRIX_SIDE = 1024


def main() -> None:
    """Measure all, print a table, and write the numbers."""
    parser = argparse.ArgumentParser(description="Measure the training of small perceptrons.")
    parser.add_argument("--output", type=Path, help="where to write the numbers as JSON")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--clients", type=int, nargs="+", default=NUM_CLIENTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(
        "model   work            clients  how          time (s)  from     to       times the loop  of a matrix product"
    )
    rows: list[dict[str, Any]] = []
    for model, work in WORKS:
        for number in arguments.clients:
            for row in measure(model, work, number, arguments.repeats):
                rows.append(row)
                print(line(row), flush=True)
            if arguments.output is not None:
                arguments.output.write_text(json.dumps({"torch": torch.__version__, "rows": rows}, indent=1))


def line(row: dict[str, Any]) -> str:
    """Write one line of the table."""
    return (
        f"{row['model']:<7} {row['work']:<15} {row['clients']:<8} {row['how']:<12} {row['median']:<9.4f} "
        f"{min(row['seconds']):<8.4f} {max(row['seconds']):<8.4f} {row['ratio']:<15.2f} {row['share']:.0%}"
    )


def measure(model: str, work: str, number: int, repeats: int) -> list[dict[str, Any]]:
    """Let all ways train the same clients in turn, and a large matrix product beside them."""
    shape, build = MODELS[model]
    architecture = describe(model, build, shape)
    jobs = [*make_jobs(architecture, work, number)]
    some = jobs[:MOST_ONE_BY_ONE]
    modules = [copy.deepcopy(build()) for _ in some]
    loaders = [loader_of(job) for job in some]
    one_by_one = number / len(some)
    ways: dict[str, tuple[Callable[[], object], float]] = {
        "plain loop": (lambda: plain_loop(modules, loaders), one_by_one),
        "sequential": (lambda: sequential.fit(some), one_by_one),
        "vmap": (lambda: stacked._Training(jobs, Device()).run(), 1),
        "perceptron": (lambda: perceptron.fit(jobs), 1),
    }
    matrix = torch.randn(MATRIX_SIDE, MATRIX_SIDE)
    seconds: dict[str, list[float]] = {how: [] for how in ways}
    products = []
    for repeat in range(repeats + 1):
        for how, (train, times) in ways.items():
            seconds[how].append(times * timed(train))
        products.append(timed(lambda: matrix @ matrix))
        if repeat == 0:  # to warm up
            products.clear()
            for own in seconds.values():
                own.clear()
    rate = 2 * MATRIX_SIDE**3 / statistics.median(products)
    operations = operations_of(jobs)
    middle = {how: statistics.median(own) for how, own in seconds.items()}
    return [
        {"model": model, "work": work, "clients": number, "how": how, "seconds": seconds[how], "median": middle[how]}
        | {"ratio": statistics.median(a / b for a, b in zip(seconds["plain loop"], seconds[how], strict=True))}
        | {"operations": operations, "matrix_rate": rate, "share": operations / middle[how] / rate}
        for how in ways
    ]


def timed(work: Callable[[], object]) -> float:
    """Return the seconds of the processor that it takes."""
    start = time.process_time()
    work()
    return time.process_time() - start


def make_jobs(architecture: Architecture, work: str, number: int) -> Sequence[FitJob]:
    """Make one job for each client: on samples of its own, or on soft labels of its own for shared samples."""
    generator = torch.Generator().manual_seed(0)
    width = architecture.shapes["body.1.weight"][1]
    shared = torch.randn(TRANSFER_SAMPLES, width, generator=generator)
    jobs = []
    for client in range(number):
        if work == "distillation":
            soft_labels = torch.softmax(torch.randn(TRANSFER_SAMPLES, NUM_CLASSES, generator=generator), 1)
            name, tensors, term = "transfer", {"inputs": shared, "soft_labels": soft_labels}, Term("transfer", KD())
        else:
            inputs = torch.randn(SAMPLES, width, generator=generator)
            labels = torch.randint(NUM_CLASSES, (SAMPLES,), generator=generator)
            name, tensors, term = "private", {"inputs": inputs, "labels": labels}, Term("private", CrossEntropy())
        order = torch.randperm(len(tensors["inputs"]), generator=generator).unsqueeze(0)
        stream = Stream(tensors, batch_plan(order, BATCH_SIZE))
        parameters = architecture.initial_parameters(client, torch.float32)
        jobs.append(FitJob(architecture, parameters, {name: stream}, (term,), OPTIMIZER))
    return jobs


def loader_of(job: FitJob) -> DataLoader[tuple[Tensor, Tensor]]:
    """Load a list of pairs."""
    tensors = next(iter(job.streams.values())).tensors
    pairs = [*zip(*tensors.values(), strict=True)]
    return DataLoader(pairs, BATCH_SIZE, shuffle=True)  # type: ignore[arg-type]


def plain_loop(modules: Sequence[nn.Module], loaders: Sequence[DataLoader[tuple[Tensor, Tensor]]]) -> None:
    """Train one client after the other."""
    for module, loader in zip(modules, loaders, strict=True):
        optimizer = torch.optim.SGD(module.parameters(), lr=OPTIMIZER.lr, momentum=OPTIMIZER.momentum)
        for inputs, targets in loader:
            optimizer.zero_grad()
            logits = module(inputs).logits
            if targets.is_floating_point():
                loss = functional.kl_div(functional.log_softmax(logits, 1), targets, reduction="batchmean")
            else:
                loss = functional.cross_entropy(logits, targets)
            loss.backward()
            optimizer.step()


def operations_of(jobs: Sequence[FitJob]) -> int:
    """Count those of all matrix products: forward, by weights, and by inputs except in the first layer."""
    weights = [shape.numel() for name, shape in jobs[0].architecture.shapes.items() if name.endswith("weight")]
    samples = sum(int((stream.plan >= 0).sum()) for job in jobs for stream in job.streams.values())
    return 2 * samples * (3 * sum(weights) - weights[0])


if __name__ == "__main__":
    main()
