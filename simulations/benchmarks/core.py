"""Measure what the core promises: fusion, the cost of a message, and the time to the first round.

Run it on a quiet machine, with one thread, from the root of the project:

    OMP_NUM_THREADS=1 python simulations/benchmarks/core.py

Each figure is the median of several repeats, with the smallest and the largest; the rate of a plain matrix product,
measured in the same process, says what the machine could do.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch

from fedfuse.assembly import make_round_settings
from fedfuse.composition import compose
from fedfuse.engine.local_grid import LocalGrid
from fedfuse.fusion import mix
from fedfuse.knowledge import KnowledgeBatch
from fedfuse.metrics import RoundRecord
from fedfuse.rounds import Observers, Rounds
from fedfuse.simulate import assemble
from strategies.knfu import KnFu

VERBS = ("learn", "express", "protect", "absorb", "evaluate", "fuse")


def main() -> None:
    """Print a line for each measurement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    measure_fusion(arguments.clients, arguments.samples, arguments.classes, arguments.repeats)
    measure_messages(arguments.repeats)
    measure_first_round(arguments.repeats)


def timed(work: Callable[[], object], repeats: int) -> list[float]:
    """Return the seconds of each repeat, after one to warm up."""
    work()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return seconds


def spread(values: list[float], unit: str, factor: float = 1.0) -> str:
    """Format the median, and the smallest and largest."""
    low, middle, high = min(values) * factor, statistics.median(values) * factor, max(values) * factor
    return f"{middle:.3g} {unit} ({low:.3g} to {high:.3g})"


def measure_fusion(num_clients: int, num_samples: int, num_classes: int, repeats: int) -> None:
    """KnFu's relate and mix, beside the rate of one large matrix product."""
    generator = torch.Generator().manual_seed(0)
    soft_labels = torch.rand(num_clients, num_samples, num_classes, generator=generator)
    soft_labels /= soft_labels.sum(2, keepdim=True)
    mask = torch.ones(num_clients, num_samples, dtype=torch.bool)
    tensors = {"soft_labels": {"soft_labels": soft_labels, "mask": mask}}
    batch = KnowledgeBatch(tuple(range(num_clients)), 1, tensors)
    strategy = KnFu(divergence="kl")
    graded = KnFu(divergence="js")

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    mixed, _ = mix(soft_labels, mask, graded.relate(batch))
    extra = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 - mixed.nbytes / 2**20
    del mixed

    relate = timed(lambda: strategy.relate(batch), repeats)
    relevance = strategy.relate(batch)
    whole = timed(lambda: mix(soft_labels, mask, strategy.relate(batch)), repeats)
    values = soft_labels.reshape(num_clients, -1)
    product = timed(lambda: relevance @ values, repeats)
    operations = 2 * num_clients**2 * num_samples * num_classes
    print(f"fusion, N={num_clients} M={num_samples} C={num_classes}, one thread")
    print(f"  relate, KL          {spread(relate, 'ms', 1000)}")
    print(f"  relate, JS          {spread(timed(lambda: graded.relate(batch), repeats), 'ms', 1000)}")
    print(f"  relate (KL) and mix {spread(whole, 's')}")
    print(f"  matrix product only {spread(product, 's')}, {operations / min(product) / 1e9:.0f} GFLOP/s")
    print(f"  memory beside the output {extra:.0f} MiB; the input is {soft_labels.nbytes / 2**20:.0f} MiB")


def measure_messages(repeats: int) -> None:
    """Time a message on the local grid beside the verbs: 1,000 x 10 soft labels each way."""
    overrides = ["num_clients=50", "partition=iid", "transfer.size=1000", "partition.min_samples=1"]
    overrides += ["model=mlp_small", "learn.epochs=1", "absorb.epochs=1", "split.global_test=0.1"]
    configuration = compose(overrides)
    simulation = assemble(configuration)
    records: list[RoundRecord] = []
    rounds = Rounds(make_round_settings(configuration), simulation.server, Observers(records.append))
    strategy = KnFu()
    strategy.rounds = rounds
    grid = LocalGrid(simulation.clients, simulation.settings)
    rounds.prepare(grid, 1, None)
    strategy.start(grid, num_rounds=repeats + 1)
    costs = []
    for record in records[1:]:
        verbs = sum(record.seconds.get(verb, 0.0) for verb in VERBS)
        costs.append((record.seconds["round"] - verbs) / (2 * configuration.num_clients))
    print("local grid, 50 clients, soft labels of 1,000 x 10 each way")
    print(f"  beside the verbs, a message costs {spread(costs, 'ms', 1000)}")


def measure_first_round(repeats: int) -> None:
    """From the command to the end of round 1 and its line, imports included."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        command = [sys.executable, "-m", "fedfuse", "run", "num_rounds=2", "local_baseline=false"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            next(line for line in process.stdout if line.startswith("round 1/"))
            seconds.append(time.perf_counter() - start)
            process.communicate()
    print("fedfuse run, from the command to the end of round 1")
    print(f"  {spread(seconds, 's')}")


if __name__ == "__main__":
    main()
