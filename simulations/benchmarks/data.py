"""Measure what the data promise: how fast sources load, what many clients cost, what batching costs beside training.

Run it on a quiet machine, from the root of the project, with MNIST and CIFAR-10 as parquet files in a folder:

    OMP_NUM_THREADS=1 FEDFUSE_DATA=DIR python simulations/benchmarks/data.py

Every source is loaded in a process of its own, which tells its own peak of memory.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time

import torch

from fedfuse.assembly import load_data, load_federation
from fedfuse.client.fit import FitJob, Stream, Term, batch_plan
from fedfuse.composition import compose
from fedfuse.configuration import OptimizerSettings
from fedfuse.data.samples import Samples
from fedfuse.engine import sequential
from fedfuse.models.architecture import Architecture, describe
from fedfuse.models.lenet import LeNet
from fedfuse.objectives.cross_entropy import CrossEntropy
from fedfuse.randomness import epoch_order, numpy_generator

MANY = ["data=synthetic", "partition=natural", "num_clients=10000", "data.samples=500000"]


def main() -> None:
    """Print a line for each measurement, or do one of them, if it is named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", nargs="?", choices=PARTS, help="one measurement, made in this process")
    part = parser.parse_args().part
    torch.set_num_threads(1)
    if part is not None:
        PARTS[part]()
        return
    with tempfile.TemporaryDirectory() as cache:
        for name in ("mnist", "mnist", "cifar10", "cifar10", "clients", "batches"):
            command = [sys.executable, __file__, name]
            subprocess.run(command, check=True, env=os.environ | {"FEDFUSE_CACHE": cache})


def measure_mnist() -> None:
    """Load MNIST: the first time it is decoded, then it comes from the cache."""
    _measure_source("mnist")


def measure_cifar10() -> None:
    """Load CIFAR-10: the first time it is decoded, then it comes from the cache."""
    _measure_source("cifar10")


def _measure_source(name: str) -> None:
    start = time.perf_counter()
    data = load_data(compose([f"data={name}"]).data)
    loaded = time.perf_counter() - start
    # Dealing touches all of it: what is memory-mapped is read only then.
    federation = load_federation(compose([f"data={name}"]))
    seconds = time.perf_counter() - start
    print(
        f"{name}, {len(data.samples):,} samples: loaded in {loaded:.2f} s, loaded again and dealt to "
        f"{len(federation.clients)} clients in {seconds - loaded:.2f} s, peak memory {_peak():.2f} GB"
    )


def measure_clients() -> None:
    """Deal a synthetic data source to 10,000 clients, and split each client's data."""
    start = time.perf_counter()
    federation = load_federation(compose(MANY))
    seconds = time.perf_counter() - start
    print(f"{len(federation.clients):,} synthetic clients: set up in {seconds:.1f} s, peak memory {_peak():.2f} GB")


def measure_batches() -> None:
    """Train 20 clients for an epoch on MNIST with LeNet, and make the same batches without training."""
    federation = load_federation(compose(["data=mnist", "num_clients=20", "split.samples=6000"]))
    architecture = describe("lenet", lambda: LeNet((1, 28, 28), 10), (1, 28, 28))
    jobs = [_job(architecture, client, own.train) for client, own in enumerate(federation.clients)]
    sequential.fit(jobs[:2])
    start = time.perf_counter()
    sequential.fit(jobs)
    training = time.perf_counter() - start
    start = time.perf_counter()
    for job in jobs:
        for _ in sequential.batches_of(job.streams["private"], torch.float32):
            pass
    batching = time.perf_counter() - start
    print(
        f"mnist, 20 clients, LeNet, one epoch: {training:.2f} s, of which batches take {1000 * batching:.0f} ms, "
        f"{100 * batching / training:.1f} %"
    )


def _job(architecture: Architecture, client: int, samples: Samples) -> FitJob:
    order = epoch_order(numpy_generator(0, "benchmark", client=client), len(samples), 1)
    stream = Stream({"inputs": samples.inputs, "labels": samples.labels}, batch_plan(order, 16))
    terms = (Term("private", CrossEntropy()),)
    parameters = architecture.initial_parameters(client, torch.float32)
    return FitJob(architecture, parameters, {"private": stream}, terms, OptimizerSettings())


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2


PARTS = {
    "mnist": measure_mnist,
    "cifar10": measure_cifar10,
    "clients": measure_clients,
    "batches": measure_batches,
}

if __name__ == "__main__":
    main()
