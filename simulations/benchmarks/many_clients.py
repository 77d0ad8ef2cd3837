"""Measure what clients cost that are registered but seldom take part: time of a round, start, memory and disk.

Run it on a quiet machine, from the root of the project:

    OMP_NUM_THREADS=1 PYTHONPATH=. python simulations/benchmarks/many_clients.py [--output FILE.json]

A hundred clients take part in every round, of as many or more that there are, each with fifty samples. Every federation
runs in a process of its own, which tells its own peak of memory; they take turns.
"""

import argparse
import itertools
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from fedfuse.checkpoint import CLIENTS, FOLDER, open_client_states
from fedfuse.composition import compose
from fedfuse.engine.local_grid import LocalGrid
from fedfuse.server_app import Service, serve
from fedfuse.simulate import assemble

NUM_CLIENTS = (100, 1_000, 10_000)
ACTIVE = 100
SAMPLES_OF_A_CLIENT = 50
GLOBAL_TEST = 1_000
OVERRIDES = ["data=synthetic", "transfer.size=200", "split.test=0.2", "split.validation=0.2"]


def main() -> None:
    """Print a table; or measure one federation, if its number of clients is given, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, help="also write the numbers to this JSON file")
    parser.add_argument("--measure", type=int, metavar="CLIENTS", help="one federation, in this process")
    arguments = parser.parse_args()
    if arguments.measure is not None:
        sys.stdout.write(json.dumps(measure(arguments.measure, arguments.rounds)))
        return
    found: dict[int, list[dict[str, float]]] = {number: [] for number in NUM_CLIENTS}
    for _ in range(arguments.repeats):
        for number in NUM_CLIENTS:
            command = [sys.executable, __file__, f"--measure={number}", f"--rounds={arguments.rounds}"]
            found[number].append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))
    rows = [row_of(number, runs, found[NUM_CLIENTS[0]]) for number, runs in found.items()]
    names = {
        "round_s": "a round, s",
        "times": "times that of the first",
        "assembled_s": "assembled, s",
        "first_round_s": "first round, s",
        "memory_mib": "memory, MiB",
        "peak_mib": "peak, MiB",
        "states_mib": "states on disk, MiB",
    }
    print("| clients | " + " | ".join(names.values()) + " |")
    print("|---" * (len(names) + 1) + "|")
    for row in rows:
        print(f"| {row['clients']:,} | " + " | ".join(f"{row[name]:.3g}" for name in names) + " |")
    if arguments.output is not None:
        arguments.output.write_text(json.dumps({"torch": torch.__version__, "rows": rows, "runs": found}, indent=1))


def row_of(number: int, runs: list[dict[str, float]], first: list[dict[str, float]]) -> dict[str, Any]:
    """Take the medians of the repeats, and of the ratios of rounds that were measured one after the other."""
    row = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    ratios = [run["round_s"] / other["round_s"] for run, other in zip(runs, first, strict=True)]
    return {"clients": number, "times": statistics.median(ratios), **row}


def measure(number: int, num_rounds: int) -> dict[str, float]:
    """Run one federation; times are those of a run with its checkpoints, but without figures and the like."""
    torch.set_num_threads(1)
    configuration = compose(
        [
            *OVERRIDES,
            f"num_clients={number}",
            f"num_rounds={num_rounds}",
            f"fraction={ACTIVE / number}",
            f"data.samples={number * SAMPLES_OF_A_CLIENT}",
            f"split.global_test={GLOBAL_TEST / (number * SAMPLES_OF_A_CLIENT)}",
        ]
    )
    libraries = peak()
    start = time.perf_counter()
    simulation = assemble(configuration)
    finished = [time.perf_counter()]
    with tempfile.TemporaryDirectory() as folder, closing(open_client_states(Path(folder))) as states:
        serve(
            Service(
                configuration=configuration,
                grid=LocalGrid(simulation.clients, simulation.settings, store=states),
                strategy=simulation.strategy,
                server=simulation.server,
                directory=Path(folder),
                round_finished=lambda metrics: finished.append(time.perf_counter()),
                commit_clients=states.commit,
            )
        )
        on_disk = (Path(folder) / FOLDER / CLIENTS).stat().st_size
    rounds = [after - before for before, after in itertools.pairwise(finished[1:])]
    return {
        "round_s": statistics.median(rounds),
        "assembled_s": finished[0] - start,
        "first_round_s": finished[1] - finished[0],
        "libraries_mib": libraries,
        "memory_mib": memory() - libraries,
        "peak_mib": peak() - libraries,
        "states_mib": on_disk / 2**20,
    }


def memory() -> float:
    """MiB of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def peak() -> float:
    """MiB of this process at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
