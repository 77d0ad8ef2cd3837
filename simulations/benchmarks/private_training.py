"""What private training costs: DP-SGD beside plain training of the same clients, with every runner.

    OMP_NUM_THREADS=1 PYTHONPATH=. python simulations/benchmarks/private_training.py [--output FILE.json]

One epoch of small perceptrons (64-64-32-10) in batches of 32, with SGD and momentum, float32. Plain and private ways
take turns in one process, on one thread; the time is the processor's. That of a private epoch includes the drawing of
its batches and of its noise. Compare ratios, not times.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from fedfuse.client.fit import Fit, FitJob, PrivateSteps, Stream, Term, batch_plan
from fedfuse.client.learn_privately import equally_wide, poisson_plan
from fedfuse.configuration import OptimizerSettings
from fedfuse.device import Device
from fedfuse.engine import perceptron, sequential, stacked
from fedfuse.models.architecture import Architecture, describe
from fedfuse.models.mlp import MLP
from fedfuse.objectives.cross_entropy import CrossEntropy
from fedfuse.privacy.keystream import Keystream, new_key
from fedfuse.privacy.normals import standard_normals
from fedfuse.randomness import epoch_order

NUM_CLASSES, BATCH_SIZE, SAMPLES = 10, 32, 200
STEPS = -(-SAMPLES // BATCH_SIZE)
OPTIMIZER = OptimizerSettings("sgd", lr=0.01, momentum=0.9)


def main() -> None:
    """Measure all, print a table, and write the numbers."""
    parser = argparse.ArgumentParser(description="Measure private training.")
    parser.add_argument("--output", type=Path, help="where to write the numbers as JSON")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--clients", type=int, default=100)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    architecture = describe("mlp64", partial(MLP, (64,), NUM_CLASSES, hidden=(64,), embedding_size=32), (64,))
    streams, parameters = make_clients(architecture, arguments.clients)
    runners: dict[str, Fit] = {
        "by hand": perceptron.fit,
        "vmap": lambda jobs: stacked._Training(jobs, Device()).run(),
        "sequential": sequential.fit,
    }
    ways: dict[str, Callable[[], object]] = {}
    for runner, fit in runners.items():
        ways[f"{runner}, plain"] = partial(train_plainly, fit, architecture, streams, parameters)
        ways[f"{runner}, private"] = partial(train_privately, fit, architecture, streams, parameters)
    ways["noise alone"] = partial(draw, arguments.clients, architecture.num_parameters)
    seconds = take_turns(ways, arguments.repeats)
    print("runner, training        time (s)  from     to       times plain")
    for name, own in seconds.items():
        plain = seconds.get(f"{name.split(',')[0]}, plain", seconds["by hand, plain"])
        ratio = statistics.median(mine / other for mine, other in zip(own, plain, strict=True))
        print(f"{name:<23} {statistics.median(own):<9.4f} {min(own):<8.4f} {max(own):<8.4f} {ratio:.2f}")
    if arguments.output is not None:
        arguments.output.write_text(json.dumps({"torch": torch.__version__, "seconds": seconds}, indent=1))


def make_clients(architecture: Architecture, number: int) -> tuple[list[Stream], list[dict[str, torch.Tensor]]]:
    """Draw the samples, the order of an epoch and the initial weights of every client."""
    generator = torch.Generator().manual_seed(0)
    streams = []
    for client in range(number):
        order = epoch_order(np.random.default_rng(client), SAMPLES, 1)
        tensors = {
            "inputs": torch.randn(SAMPLES, 64, generator=generator),
            "labels": torch.randint(NUM_CLASSES, (SAMPLES,), generator=generator),
        }
        streams.append(Stream(tensors, batch_plan(order, BATCH_SIZE)))
    return streams, [architecture.initial_parameters(client, torch.float32) for client in range(number)]


def train_plainly(
    fit: Fit, architecture: Architecture, streams: Sequence[Stream], parameters: Sequence[dict[str, torch.Tensor]]
) -> None:
    """Train for one epoch."""
    terms = (Term("private", CrossEntropy()),)
    fit(
        [
            FitJob(architecture, own, {"private": stream}, terms, OPTIMIZER)
            for stream, own in zip(streams, parameters, strict=True)
        ]
    )


def train_privately(
    fit: Fit,
    architecture: Architecture,
    streams: Sequence[Stream],
    parameters: Sequence[dict[str, torch.Tensor]],
) -> None:
    """Train for one epoch of as many steps, on Poisson samples."""
    terms, jobs = (Term("private", CrossEntropy()),), []
    for stream, own in zip(streams, parameters, strict=True):
        key = new_key()
        plan = poisson_plan(Keystream(key, "samples"), SAMPLES, BATCH_SIZE / SAMPLES, STEPS)
        private = PrivateSteps(1.0, 1.0, BATCH_SIZE, Keystream(key, "noise"))
        own_stream = {"private": Stream(stream.tensors, plan)}
        jobs.append(FitJob(architecture, own, own_stream, terms, OPTIMIZER, private=private))
    fit(equally_wide(jobs))


def draw(clients: int, number: int) -> None:
    """Draw the noise of one epoch and do nothing with it."""
    keystreams = [Keystream(bytes(32), str(client)) for client in range(clients)]
    for _ in range(STEPS):
        standard_normals(keystreams, number)


def take_turns(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Time every way once in each of so many turns, after one that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, way in ways.items():
            begin = time.process_time()
            way()
            if turn:
                seconds[name].append(time.process_time() - begin)
    return seconds


if __name__ == "__main__":
    main()
