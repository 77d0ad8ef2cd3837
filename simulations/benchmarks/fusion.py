"""Measure what fusing costs with every strategy that fuses what clients say of transfer samples, against KnFu's.

    OMP_NUM_THREADS=1 python simulations/benchmarks/fusion.py

All strategies get the same random knowledge; each is timed right beside KnFu, several times, and the median ratio
counts. Those that need other knowledge (weights, prototypes, private features, generators) are left out.
"""

import argparse
import statistics
import time

import torch

from fedfuse import catalogue
from fedfuse.assembly import load_federation, make_architectures, make_server, make_strategy
from fedfuse.composition import compose
from fedfuse.data.federation import Shared, TransferSet
from fedfuse.knowledge import KnowledgeBatch
from fedfuse.server import Server
from fedfuse.strategy import FusionStrategy

KNOWN = frozenset({"soft_labels", "densities", "relations"})
LABELLED = 100


def main() -> None:
    """Print a line for each strategy, the cheapest first."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    server = make_a_server(arguments.samples)
    knowledge = random_knowledge(arguments.clients, arguments.samples, server.num_classes)
    knfu = make_strategy(compose(["strategy=knfu"]).strategy)
    ratios = {}
    for name in catalogue.names("strategy", catalogue.folders()):
        strategy = None if name == "custom" else make_strategy(compose([f"strategy={name}"]).strategy)
        if strategy is not None and strategy.sends and strategy.sends <= KNOWN and strategy.returns <= KNOWN:
            ratios[name] = ratio(strategy, knfu, knowledge, server, arguments.repeats)
    print(f"fuse, N={arguments.clients} M={arguments.samples} C={server.num_classes}, one thread, against knfu")
    for name, value in sorted(ratios.items(), key=lambda item: item[1]):
        print(f"  {name:<22}{value:7.2f}")


def make_a_server(num_samples: int) -> Server:
    """Make a server whose transfer set has so many samples; it knows the labels of the first hundred."""
    configuration = compose([])
    shared = load_federation(configuration).shared
    repeats = -(-num_samples // len(shared.transfer))
    inputs = shared.transfer.inputs.repeat(repeats, *[1] * (shared.transfer.inputs.ndim - 1))[:num_samples]
    larger = Shared(TransferSet(inputs), shared.global_test, shared.class_names)
    labels = torch.arange(LABELLED) % larger.num_classes
    return make_server(configuration, larger, make_architectures(configuration, larger), labels)


def random_knowledge(num_clients: int, num_samples: int, num_classes: int) -> KnowledgeBatch:
    """Draw soft labels that are sure of random classes, densities, relations and label counts."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(num_clients, num_samples, dtype=torch.bool)
    logits = 3 * torch.randn(num_clients, num_samples, num_classes, generator=generator)
    densities = 5 * torch.randn(num_clients, num_samples, generator=generator)
    familiarity = torch.rand(num_clients, num_samples, generator=generator)
    relations = 2 * torch.rand(num_clients, num_samples * (num_samples - 1) // 2, generator=generator)
    return KnowledgeBatch(
        client_ids=tuple(range(num_clients)),
        round=1,
        tensors={
            "soft_labels": {"soft_labels": torch.softmax(logits, 2), "mask": mask},
            "densities": {"densities": densities, "familiarity": familiarity, "mask": mask},
            "relations": {"relations": relations, "mask": mask},
        },
        label_counts=torch.randint(1, 100, (num_clients, num_classes), generator=generator).double(),
    )


def ratio(
    strategy: FusionStrategy, knfu: FusionStrategy, knowledge: KnowledgeBatch, server: Server, repeats: int
) -> float:
    """Return the median of how many times as long as KnFu a strategy takes, after one of each to warm up."""
    ratios = []
    for repeat in range(1 + repeats):
        seconds = []
        for one in (strategy, knfu):
            start = time.perf_counter()
            one.fuse(knowledge, server)
            seconds.append(time.perf_counter() - start)
        if repeat:
            ratios.append(seconds[0] / seconds[1])
    return statistics.median(ratios)


if __name__ == "__main__":
    main()
