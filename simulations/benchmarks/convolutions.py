"""How long convolutional networks train: a plain loop over clients, and the sequential runner.

    OMP_NUM_THREADS=1 PYTHONPATH=. python simulations/benchmarks/convolutions.py [--output FILE.json]

One epoch of 200 noise images in batches of 32 with SGD and momentum. The plain loop, the turns of the two, and the
clock are those of `stacked.py`. Compare ratios, not times.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from stacked import BATCH_SIZE, MATRIX_SIDE, NUM_CLASSES, OPTIMIZER, SAMPLES, loader_of, plain_loop, timed
from torch import Tensor, nn

from fedfuse.client.fit import FitJob, Stream, Term, batch_plan
from fedfuse.engine import sequential
from fedfuse.models.architecture import Architecture, describe
from fedfuse.models.cnn import CNN
from fedfuse.models.lenet import LeNet
from fedfuse.models.resnet import ResidualBlock, ResNet
from fedfuse.objectives.cross_entropy import CrossEntropy

GREY, COLOUR = (1, 28, 28), (3, 32, 32)
# The model, the shape of an image, and how many clients.
WORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int], int]] = {
    "LeNet": (partial(LeNet, GREY, NUM_CLASSES), GREY, 20),
    "CNN": (partial(CNN, COLOUR, NUM_CLASSES, channels=(16, 32), embedding_size=64), COLOUR, 5),
    "ResNet-8": (partial(ResNet, COLOUR, NUM_CLASSES), COLOUR, 5),
}
# A pass backward takes two products for each of the pass forward.
PRODUCTS_OF_A_STEP = 3


def main() -> None:
    """Measure all, print a table, and write the numbers."""
    parser = argparse.ArgumentParser(description="Measure the training of convolutional networks.")
    parser.add_argument("--output", type=Path, help="where to write the numbers as JSON")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--models", nargs="+", choices=WORKS, default=WORKS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("model     clients  plain loop (s)            sequential (s)            times the loop        of a product")
    rows = []
    for model in arguments.models:
        rows.append(measure(model, arguments.repeats))
        print(line(rows[-1]), flush=True)
        if arguments.output is not None:
            arguments.output.write_text(json.dumps({"torch": torch.__version__, "rows": rows}, indent=1))


def line(row: dict[str, Any]) -> str:
    """Write one line of the table: medians, and the smallest to the largest."""
    cells = [spread(row["plain loop"], 3), spread(row["sequential"], 3), spread(row["ratios"], 2)]
    return f"{row['model']:<9} {row['clients']:<8} {cells[0]:<25} {cells[1]:<25} {cells[2]:<21} {row['share']:.0%}"


def spread(values: list[float], digits: int) -> str:
    """Write a median, and from where to where."""
    low, middle, high = (f"{value:.{digits}f}" for value in (min(values), statistics.median(values), max(values)))
    return f"{middle} ({low} to {high})"


def measure(model: str, repeats: int) -> dict[str, Any]:
    """Let both train the same clients in turn, and a large matrix product beside them."""
    build, shape, number = WORKS[model]
    architecture = describe(model, build, shape)
    jobs = make_jobs(architecture, shape, number)
    modules, loaders = [textbook(build()) for _ in jobs], [loader_of(job) for job in jobs]
    matrix = torch.randn(MATRIX_SIDE, MATRIX_SIDE)
    works: dict[str, Callable[[], object]] = {
        "plain loop": lambda: plain_loop(modules, loaders),
        "sequential": lambda: sequential.fit(jobs),
        "products": lambda: matrix @ matrix,
    }
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(repeats + 1):
        for name, work in works.items():
            taken = timed(work)
            if repeat:  # after one of each to warm up
                seconds[name].append(taken)
    matrix_rate = 2 * MATRIX_SIDE**3 / statistics.median(seconds["products"])
    rate = PRODUCTS_OF_A_STEP * architecture.flops * SAMPLES * number / statistics.median(seconds["sequential"])
    ratios = [plain / own for plain, own in zip(seconds["plain loop"], seconds["sequential"], strict=True)]
    found = {"ratios": ratios, "rate": rate, "matrix_rate": matrix_rate, "share": rate / matrix_rate}
    return {"model": model, "clients": number, **seconds, **found}


def textbook(module: nn.Module) -> nn.Module:
    """Put ReLU before the pool again, and let shortcuts be slices again, as textbooks have it."""
    body = module.get_submodule("body")
    assert isinstance(body, nn.Sequential), "the layers of these models follow one another"
    for row, layer in enumerate(list(body)):
        if isinstance(layer, nn.MaxPool2d):
            body[row], body[row + 1] = body[row + 1], layer
        if isinstance(layer, ResidualBlock):
            layer.__class__ = SlicedBlock
    return module


class SlicedBlock(ResidualBlock):
    """A residual block whose shortcut takes every second pixel by slicing."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute the next maps of maps ``[batch, inner, height, width]``."""
        shortcut = inputs[:, :, :: self.stride, :: self.stride]
        if self.num_new_channels:
            shortcut = nn.functional.pad(shortcut, (0, 0, 0, 0, 0, self.num_new_channels))
        return torch.relu(self.layers(inputs) + shortcut)


def make_jobs(architecture: Architecture, shape: tuple[int, int, int], number: int) -> list[FitJob]:
    """Make one job for each client, on images of its own."""
    generator = torch.Generator().manual_seed(0)
    jobs = []
    for client in range(number):
        inputs = torch.randn(SAMPLES, *shape, generator=generator)
        labels = torch.randint(NUM_CLASSES, (SAMPLES,), generator=generator)
        plan = batch_plan(torch.randperm(SAMPLES, generator=generator).unsqueeze(0), BATCH_SIZE)
        streams = {"private": Stream({"inputs": inputs, "labels": labels}, plan)}
        parameters = architecture.initial_parameters(client, torch.float32)
        jobs.append(FitJob(architecture, parameters, streams, (Term("private", CrossEntropy()),), OPTIMIZER))
    return jobs


if __name__ == "__main__":
    main()
