"""Measure fusion at scale: its rate beside a bare matrix product, a round of 10,000 clients, and sixteen neighbours.

    OMP_NUM_THREADS=1 PYTHONPATH=. python simulations/benchmarks/scale.py --output scale.json

Run it on a quiet machine; it needs about 6 GB of memory. Each part runs in a process of its own, which tells its own
peak of memory. Rates are the best of several repeats, taken in turns with those that they are compared with.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from fedfuse.assembly import make_round_settings
from fedfuse.client import phases
from fedfuse.client.client import Client, ClientSettings
from fedfuse.client.phases import Answer
from fedfuse.client.state import ClientState
from fedfuse.composition import compose
from fedfuse.engine.local_grid import LocalGrid
from fedfuse.fusion import mix, pairwise_divergence, strongest
from fedfuse.knowledge import Knowledge, KnowledgeBatch
from fedfuse.messages import Reply, Request
from fedfuse.rounds import Observers, Rounds
from fedfuse.simulate import assemble
from fedfuse.sketch import nearest
from strategies.knfu import KnFu

Figures = dict[str, float]
NEIGHBOURS = 16
SAMPLES, CLASSES = 1000, 10


def main() -> None:
    """Print a table for each part, and write all figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", nargs="?", choices=PARTS, help="one part, made in this process")
    parser.add_argument("--clients", type=int, help="instead of 3,000 for the rate and 10,000 for the others")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, help="the JSON file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.part is not None:
        measure, clients = PARTS[arguments.part]
        print(json.dumps(measure(arguments.clients or clients, arguments.repeats)))
        return
    figures = {}
    for part in PARTS:
        command = [sys.executable, __file__, part, "--repeats", str(arguments.repeats)]
        command += ["--clients", str(arguments.clients)] if arguments.clients else []
        told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        figures[part] = json.loads(told.splitlines()[-1])
        print(part)
        for name, value in figures[part].items():
            print(f"  {name:<48}{value:>10.4g}", flush=True)
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(figures, indent=2) + "\n")


def measure_rate(num_clients: int, repeats: int) -> Figures:
    """KnFu's relate (KL) and mix, in turns with the matrix product of the mix and a large square one."""
    soft_labels = uniform_answers(num_clients)
    mask = torch.ones(num_clients, SAMPLES, dtype=torch.bool)
    half = torch.rand(num_clients, SAMPLES, generator=torch.Generator().manual_seed(1)) < 0.5
    batch = batch_of(soft_labels)
    strategy = KnFu(divergence="kl")
    relevance = strategy.relate(batch)
    values, product = soft_labels.flatten(1), torch.empty(num_clients, SAMPLES * CLASSES)
    square, result = torch.rand(2048, 2048), torch.empty(2048, 2048)
    operations = 2 * num_clients**2 * SAMPLES * CLASSES
    seconds = in_turns(
        {
            "product of the mix": lambda: torch.mm(relevance, values, out=product),
            "square product": lambda: torch.mm(square, square, out=result),
            "relate": lambda: strategy.relate(batch),
            "relate and mix": lambda: mix(soft_labels, mask, strategy.relate(batch)),
            "strategy.fuse": lambda: strategy.fuse(batch, None),  # type: ignore[arg-type]
            "mix, half unanswered": lambda: mix(soft_labels, half, relevance),
            "mix, logit": lambda: mix(soft_labels, mask, relevance, space="logit"),
        },
        repeats,
    )
    rates = {name: operations / value / 1e9 for name, value in seconds.items() if name != "relate"}
    rates["square product"] = 2 * 2048**3 / seconds["square product"] / 1e9
    best = max(rates["product of the mix"], rates["square product"])
    figures = {"clients": float(num_clients), "relate, seconds": seconds["relate"]}
    figures |= {f"{name}, GFLOP/s": rate for name, rate in rates.items()}
    return figures | {f"{name}, % of the best product": 100 * rates[name] / best for name in list(rates)[2:]}


def measure_round(num_clients: int, repeats: int) -> Figures:
    """One round on the local grid, of clients that answer at random and neither learn nor absorb."""
    overrides = ["data=synthetic", "partition=natural", f"num_clients={num_clients}"]
    overrides += [f"data.samples={50 * num_clients}", f"data.classes={CLASSES}", f"transfer.size={SAMPLES}"]
    overrides += ["strategy=knfu", "strategy.divergence=kl", "model=mlp_small"]
    configuration = compose(overrides)
    simulation = assemble(configuration)
    num_classes = simulation.settings.num_classes
    answers = uniform_answers(num_clients, num_classes)

    def share(
        clients: Sequence[Client],
        states: Sequence[ClientState],
        requests: Sequence[Request],
        settings: ClientSettings,
        *_: object,
    ) -> list[Answer]:
        replies = []
        for client, request in zip(clients, requests, strict=True):
            carriers = {"soft_labels": {"soft_labels": answers[client.client_id]}}
            knowledge = Knowledge(client.client_id, request.round, carriers)
            replies.append(Reply(client.client_id, request.round, settings.transfer.digest, knowledge))
        return [Answer(state, reply) for state, reply in zip(states, replies, strict=True)]

    def absorb(
        clients: Sequence[Client],
        states: Sequence[ClientState],
        requests: Sequence[Request],
        settings: ClientSettings,
        *_: object,
    ) -> list[Answer]:
        for request in requests:
            assert request.fused is not None
            assert request.fused["soft_labels"]["soft_labels"].shape == (SAMPLES, num_classes)
        return [
            Answer(state, Reply(client.client_id, request.round, settings.transfer.digest, metrics={}))
            for client, state, request in zip(clients, states, requests, strict=True)
        ]

    phases.share, phases.absorb_and_evaluate = share, absorb  # type: ignore[assignment]
    seconds: list[dict[str, float]] = []
    rounds = Rounds(
        make_round_settings(configuration),
        simulation.server,
        Observers(lambda record: seconds.append(dict(record.seconds))),
    )
    strategy = KnFu(divergence="kl")
    strategy.rounds = rounds
    grid = LocalGrid(simulation.clients, simulation.settings)
    rounds.prepare(grid, 1, None)
    before = peak()
    strategy.start(grid, num_rounds=1)
    gigabytes = answers.nbytes / 1e9
    return {
        "clients": float(num_clients),
        "soft labels of all clients, GB": gigabytes,
        "peak memory before the round, GB": before,
        "peak memory on top of that, GB": peak() - before,
        "round, seconds": seconds[0]["round"],
        "of which fuse, seconds": seconds[0]["fuse"],
    }


def measure_neighbours(num_clients: int, repeats: int) -> Figures:
    """Sixteen neighbours: how many of the exact ones the sketch finds, and what finding and mixing them costs."""
    figures = {"clients": float(num_clients)}
    for name, soft_labels in (
        ("clusters of 100", clustered_answers(num_clients, 100)),
        ("Dirichlet label skew", skewed_answers(num_clients)),
    ):
        answers = soft_labels.flatten(1) / SAMPLES
        start = time.perf_counter()
        found = nearest(answers, NEIGHBOURS)
        sketched = time.perf_counter() - start
        start = time.perf_counter()
        # Rows are the negative divergence, exact; the strongest are the nearest.
        divergence = pairwise_divergence(answers, "kl")
        exact = divergence.topk(NEIGHBOURS, largest=False).indices
        dense = time.perf_counter() - start
        hits = (found.clients.unsqueeze(2) == exact.unsqueeze(1)).any(2).double().mean()
        figures |= {
            f"{name}: recall at {NEIGHBOURS}": float(hits),
            f"{name}: sketch, seconds": sketched,
            f"{name}: all divergences, seconds": dense,
            f"{name}: sketch, times as fast": dense / sketched,
        }
    mask = torch.ones(num_clients, SAMPLES, dtype=torch.bool)
    relevance = divergence.mul_(-10).softmax(1)
    del divergence, answers
    few = strongest(relevance, NEIGHBOURS)
    seconds = in_turns(
        {"all": lambda: mix(soft_labels, mask, relevance), "few": lambda: mix(soft_labels, mask, few)}, 1
    )
    return figures | {
        "mix, all clients, seconds": seconds["all"],
        f"mix, {NEIGHBOURS} neighbours, seconds": seconds["few"],
        f"mix, {NEIGHBOURS} neighbours, times as fast": seconds["all"] / seconds["few"],
        "peak memory, GB": peak(),
    }


def uniform_answers(num_clients: int, num_classes: int = CLASSES) -> Tensor:
    """Draw random soft labels, ``[N, M, C]``."""
    answers = torch.rand(num_clients, SAMPLES, num_classes, generator=torch.Generator().manual_seed(0))
    return answers.div_(answers.sum(2, keepdim=True))


def clustered_answers(num_clients: int, size: int) -> Tensor:
    """Draw clusters of clients that answer alike: a Dirichlet answer of the cluster, and noise of each client's own."""
    generator = torch.Generator().manual_seed(2)
    clusters = torch.randint(0, max(1, num_clients // size), (num_clients,), generator=generator)
    centres = 2 * torch.randn(max(1, num_clients // size), SAMPLES, CLASSES, generator=generator)
    answers = torch.randn(num_clients, SAMPLES, CLASSES, generator=generator).mul_(0.5)
    for start in range(0, num_clients, 100):
        rows = slice(start, start + 100)
        answers[rows] = (answers[rows] + centres[clusters[rows]]).softmax(2)
    return answers


def skewed_answers(num_clients: int) -> Tensor:
    """Draw answers of clients with Dirichlet label shares (alpha 0.3): the sample's class by its client's prior."""
    generator = torch.Generator().manual_seed(3)
    torch.manual_seed(3)
    shares = torch.distributions.Dirichlet(torch.full((CLASSES,), 0.3)).sample((num_clients,))
    evidence = 2 * torch.randn(SAMPLES, CLASSES, generator=generator)
    answers = torch.randn(num_clients, SAMPLES, CLASSES, generator=generator).mul_(0.1)
    for start in range(0, num_clients, 100):
        rows = slice(start, start + 100)
        answers[rows] = (answers[rows] + evidence + (shares[rows] + 0.01).log().unsqueeze(1)).softmax(2)
    return answers


def batch_of(soft_labels: Tensor) -> KnowledgeBatch:
    """Make what a strategy sees, of clients that answered everything."""
    mask = torch.ones(soft_labels.shape[:2], dtype=torch.bool)
    tensors = {"soft_labels": {"soft_labels": soft_labels, "mask": mask}}
    return KnowledgeBatch(tuple(range(len(soft_labels))), 1, tensors)


def in_turns(cases: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the least seconds of each case, all of them taken in turns."""
    seconds: dict[str, float] = {}
    for _ in range(repeats):
        for name, case in cases.items():
            start = time.perf_counter()
            case()
            seconds[name] = min(seconds.get(name, float("inf")), time.perf_counter() - start)
    return seconds


def peak() -> float:
    """Return the peak of this process's memory so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


PARTS = {
    "rate": (measure_rate, 3_000),
    "round": (measure_round, 10_000),
    "neighbours": (measure_neighbours, 10_000),
}

if __name__ == "__main__":
    main()
