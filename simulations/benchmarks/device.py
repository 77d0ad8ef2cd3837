"""How long clients train and predict on a CUDA device: together, one after the other, and on the processor.

    OMP_NUM_THREADS=1 python simulations/benchmarks/device.py [--output FILE.json]

The training of one round, from tensors in the processor's memory to tensors in the processor's memory: every client has
64 images, and takes two epochs in batches of 16. The images are noise, because only their shapes matter here.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fedfuse.client.fit import FitJob, Stream, Term, batch_plan
from fedfuse.client.predict import predict
from fedfuse.configuration import OptimizerSettings
from fedfuse.device import Device, computing_on
from fedfuse.engine import sequential, stacked
from fedfuse.models.architecture import Architecture, describe
from fedfuse.models.lenet import LeNet
from fedfuse.models.resnet import ResNet
from fedfuse.objectives.cross_entropy import CrossEntropy

MODELS: dict[str, tuple[Callable[..., nn.Module], tuple[int, int, int]]] = {
    "LeNet": (LeNet, (1, 28, 28)),
    "ResNet-8": (ResNet, (3, 32, 32)),
}
NUM_CLIENTS = (10, 100, 1000)
RUNNERS = {"together": stacked.fit, "one by one": sequential.fit}
# More take longer in proportion.
MOST_ONE_BY_ONE = {"cuda": 100, "cpu": 10}
SAMPLES, EPOCHS, BATCH_SIZE, NUM_CLASSES, NUM_TRANSFER = 64, 2, 16, 10, 500
REPEATS = 3
# A pass backward takes two products for each of the pass forward.
PRODUCTS_OF_A_STEP = 3
MATRIX_SIDE = 8192


def main() -> None:
    """Measure all, print a table, and write the numbers."""
    parser = argparse.ArgumentParser(description="Measure training and prediction on a CUDA device.")
    parser.add_argument("--output", type=Path, help="where to write the numbers as JSON")
    output = parser.parse_args().output
    if not torch.cuda.is_available():
        sys.exit("torch sees no CUDA device.")
    torch.set_num_threads(1)
    devices = {"cpu": Device(), "cuda": Device("cuda"), "cuda, tf32": Device("cuda", tf32=True)}
    rates = {name: matrix_rate(device) for name, device in devices.items() if device.is_cuda}
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}; product of {MATRIX_SIDE}x{MATRIX_SIDE} matrices:"
    )
    for name, rate in rates.items():
        print(f"  {name:<11} {rate / 1e12:6.1f} TFLOP/s")
    print("model    clients  on          how          train (s)  from    to      TFLOP/s  share  GiB    predict (s)")
    rows: list[dict[str, Any]] = []
    for model, number, on, how in settings():
        row = {"model": model, "clients": number, "on": on, "how": how} | measure(model, number, devices[on], how)
        row["share"] = row["operations"] / row["train"] / rates[on] if on in rates else None
        rows.append(row)
        print(line(row), flush=True)
        if output is not None:
            output.write_text(json.dumps({"rates": rates, "torch": torch.__version__, "rows": rows}, indent=1))


def line(row: dict[str, Any]) -> str:
    """Write one line of the table."""
    low, high = min(row["trains"]), max(row["trains"])
    share = "" if row["share"] is None else f"{row['share']:.2%}"
    memory = f"{row['peak_bytes'] / 2**30:.1f}" if row["share"] is not None else ""
    predict = "" if row["predict"] is None else f"{row['predict']:.3f}"
    return (
        f"{row['model']:<8} {row['clients']:<8} {row['on']:<11} {row['how']:<12} {row['train']:<10.3f} {low:<7.3f} "
        f"{high:<7.3f} {row['operations'] / row['train'] / 1e12:<8.3f} {share:<6} {memory:<6} {predict}"
    )


def settings() -> list[tuple[str, int, str, str]]:
    """List what is measured: model, number of clients, device, and how."""
    chosen = []
    for model in MODELS:
        for number in NUM_CLIENTS:
            chosen += [(model, number, on, "together") for on in ("cuda", "cuda, tf32")]
            if number <= MOST_ONE_BY_ONE["cuda"]:
                chosen.append((model, number, "cuda", "one by one"))
            if number <= MOST_ONE_BY_ONE["cpu"]:
                chosen.append((model, number, "cpu", "one by one"))
    return chosen


def measure(model: str, number: int, device: Device, how: str) -> dict[str, Any]:
    """Time one round's training and one prediction of the transfer set, after a warm-up."""
    architecture, jobs = make_jobs(model, number)
    _, shape = MODELS[model]
    transfer = torch.randint(256, (NUM_TRANSFER, *shape), dtype=torch.uint8)
    torch.cuda.reset_peak_memory_stats()
    trains = seconds(device, partial(RUNNERS[how], jobs))
    peak = torch.cuda.max_memory_allocated()
    predicts = []
    if how == "together" or not device.is_cuda:  # on CUDA, clients always answer together
        parameters = [job.parameters for job in jobs]
        predicts = seconds(device, partial(predict, architecture, parameters, [transfer] * number))
    torch.cuda.empty_cache()
    return {
        "train": statistics.median(trains),
        "trains": trains,
        "predict": statistics.median(predicts) if predicts else None,
        "predicts": predicts,
        "peak_bytes": peak,
        "operations": PRODUCTS_OF_A_STEP * architecture.flops * SAMPLES * EPOCHS * number,
    }


def make_jobs(model: str, number: int) -> tuple[Architecture, list[FitJob]]:
    """Make one round's training of so many clients."""
    build, shape = MODELS[model]
    architecture = describe(model, partial(build, shape, NUM_CLASSES), shape)
    jobs = []
    for client in range(number):
        generator = torch.Generator().manual_seed(client)
        inputs = torch.randint(256, (SAMPLES, *shape), generator=generator, dtype=torch.uint8)
        labels = torch.randint(NUM_CLASSES, (SAMPLES,), generator=generator)
        order = torch.stack([torch.randperm(SAMPLES, generator=generator) for _ in range(EPOCHS)])
        stream = Stream({"inputs": inputs, "labels": labels}, batch_plan(order, BATCH_SIZE))
        parameters = architecture.initial_parameters(client, torch.float32)
        terms = (Term("private", CrossEntropy()),)
        jobs.append(FitJob(architecture, parameters, {"private": stream}, terms, OptimizerSettings(lr=0.01)))
    return architecture, jobs


def seconds(device: Device, work: Callable[[], object]) -> list[float]:
    """Time some work three times, after a warm-up; it waits for its results itself."""
    measured = []
    for _ in range(1 + REPEATS):
        start = time.perf_counter()
        with computing_on(device):
            work()
        measured.append(time.perf_counter() - start)
    return measured[1:]


def matrix_rate(device: Device) -> float:
    """Measure the operations a second of a large product of float32 matrices."""
    first, second = (torch.randn(MATRIX_SIDE, MATRIX_SIDE, device="cuda") for _ in range(2))
    with computing_on(device):
        measured = []
        for _ in range(1 + 2 * REPEATS):
            torch.cuda.synchronize()
            start = time.perf_counter()
            first @ second
            torch.cuda.synchronize()
            measured.append(time.perf_counter() - start)
    return 2 * MATRIX_SIDE**3 / statistics.median(measured[1:])


if __name__ == "__main__":
    main()
