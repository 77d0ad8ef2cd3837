"""Measure what protecting soft labels costs a client, and show what guarantees cost in epsilon.

    OMP_NUM_THREADS=1 python simulations/benchmarks/privacy.py --output privacy.json
    python simulations/benchmarks/privacy.py --epsilon

The first times every step on the same soft labels, the steps one after the other in each repeat; keys come from the
operating system, and deriving the stream of the message is part of the time. The second prints the epsilon of runs.
"""

import argparse
import itertools
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedfuse.privacy.chain import guarantees_of
from fedfuse.privacy.clip import Clip
from fedfuse.privacy.discrete_gaussian import table
from fedfuse.privacy.exposure import Exposure
from fedfuse.privacy.gaussian import Gaussian
from fedfuse.privacy.keystream import Keystream, new_key
from fedfuse.privacy.noise import Noise
from fedfuse.privacy.protector import Context, Protector
from fedfuse.privacy.randomised_response import RandomisedResponse
from fedfuse.privacy.swing import Swing

PROTECTORS: dict[str, tuple[Protector, float | None]] = {
    "noise": (Noise(), None),
    "swing": (Swing(), None),
    "clip": (Clip(0.3), None),
    "gaussian": (Gaussian(1.0), None),
    "gaussian after clip": (Gaussian(1.0), 0.3),
    "randomised_response": (RandomisedResponse(1.0), None),
}
DELTA = 1e-5


def main() -> None:
    """Print one of the two tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--output", type=Path, help="also write the times as JSON")
    parser.add_argument("--epsilon", action="store_true", help="print the epsilon of runs instead")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.epsilon:
        show_epsilon(arguments.classes)
    else:
        show_times(arguments.samples, arguments.classes, arguments.repeats, arguments.output)


def show_times(num_samples: int, num_classes: int, repeats: int, output: Path | None) -> None:
    """Time every step for one client, in milliseconds."""
    start = time.perf_counter()
    table()
    print(f"table of the discrete Gaussian, once a process: {time.perf_counter() - start:.2f} s")
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, num_samples, num_classes, generator=generator)
    soft_labels, reference = torch.softmax(logits, 2)
    times: dict[str, list[float]] = {name: [] for name in PROTECTORS}
    for repeat in range(1 + repeats):
        for name, (protector, radius) in PROTECTORS.items():
            milliseconds = time_once(protector, soft_labels, reference, radius, repeat)
            if repeat:
                times[name].append(milliseconds)
    print(
        f"protect, M={num_samples} C={num_classes}, one thread, ms a client: median (smallest to largest of {repeats})"
    )
    figures = {}
    for name, values in times.items():
        figures[name] = {"median": statistics.median(values), "smallest": min(values), "largest": max(values)}
        print(f"  {name:<22}{statistics.median(values):6.2f} ({min(values):.2f} to {max(values):.2f})")
    if output is not None:
        facts = {"samples": num_samples, "classes": num_classes, "repeats": repeats, "milliseconds": figures}
        output.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def time_once(protector: Protector, soft_labels: Tensor, reference: Tensor, radius: float | None, repeat: int) -> float:
    """Return the milliseconds of protecting one message, with a new key."""
    key = new_key()
    start = time.perf_counter()
    context = Context(
        rows=torch.arange(len(soft_labels)),
        reference=reference,
        likeness=lambda: torch.zeros(len(soft_labels)),
        radius=radius,
        generator=np.random.default_rng(repeat),
        keystream=Keystream(key, f"protect {repeat}"),
    )
    protector(soft_labels, context)
    return 1000 * (time.perf_counter() - start)


def show_epsilon(num_classes: int) -> None:
    """Print the epsilon of whole runs of 10 clients, for every client's data, against everyone."""
    print(f"epsilon at delta {DELTA:g}, C={num_classes}, for all data of one client")
    columns = list(itertools.product((50, 200, 1000), (1, 5, 20)))
    print("\nsamples a round      " + "".join(f"{num_rows:>9}" for num_rows, _ in columns))
    print("rounds               " + "".join(f"{num_rounds:>9}" for _, num_rounds in columns))
    chains: dict[str, list[Protector]] = {}
    for sigma in (0.2, 1.0, 5.0, 25.0):
        chains[f"gaussian {sigma:g}"] = [Gaussian(sigma, DELTA)]
        chains[f"gaussian {sigma:g}, clip 0.1"] = [Clip(0.1), Gaussian(sigma, DELTA)]
    for epsilon in (0.01, 0.1, 1.0, 3.0):
        chains[f"response {epsilon:g}"] = [RandomisedResponse(epsilon, DELTA)]
    for name, chain in chains.items():
        losses = [
            guarantees_of(chain, Exposure(num_rounds, num_rows, num_classes, 10, 1, 1), num_rounds)[-1].epsilon
            for num_rows, num_rounds in columns
        ]
        print(f"{name:<21}" + "".join(f"{shown(loss):>9}" for loss in losses))


def shown(loss: float | None) -> str:
    """Write an epsilon with three digits, or as a whole number."""
    assert loss is not None, "every chain ends with a guarantee"
    return f"{loss:.3g}" if loss < 1000 else f"{loss:.0f}"


if __name__ == "__main__":
    main()
