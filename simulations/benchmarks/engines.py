"""How long a round takes on each engine: in this process, on Ray, and deployed on this machine.

    OMP_NUM_THREADS=1 python simulations/benchmarks/engines.py

The same federation of three clients everywhere; each engine is started once. The first round is left out of the median,
because it pays for what is loaded once. It takes about three minutes on two cores, which it needs for itself.
"""

import contextlib
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from fedfuse.deploy.flower import free_port
from fedfuse.results import read_metrics

FEDERATION = ("num_clients=3", "seed=0")
ROUNDS = {"local": 20, "ray": 20, "deployed": 4}


def main() -> None:
    """Measure all, and print a table."""
    print(f"{'engine':<10} {'command to last line (s)':>26} {'median round (s)':>18}")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for name, words in {
            "local": ["run", *FEDERATION, "local_baseline=false"],
            "ray": ["run", *FEDERATION, "local_baseline=false", "engine=ray"],
        }.items():
            report(name, [*words, f"num_rounds={ROUNDS[name]}", f"output={name}"])
        port = free_port()
        run(["export", "parts", *FEDERATION])
        with contextlib.ExitStack() as clients:
            for client_id in range(3):
                words = [f"--id={client_id}", f"--data=parts/client-{client_id}.npz", "--transfer=parts/transfer.npz"]
                clients.enter_context(running(["client", *words, f"--server=127.0.0.1:{port}", "--insecure"]))
            words = ["server", *FEDERATION, "transfer.path=parts/transfer.npz", "--insecure", f"--port={port}"]
            report("deployed", [*words, f"num_rounds={ROUNDS['deployed']}", "output=deployed"])


def report(name: str, words: Sequence[str]) -> None:
    """Run one engine and print its line."""
    start = time.perf_counter()
    run(words)
    total = time.perf_counter() - start
    rounds = [line["seconds"]["round"] for line in read_metrics(Path(name))]
    print(f"{name:<10} {total:>26.1f} {statistics.median(rounds[1:]):>18.3f}", flush=True)


def run(words: Sequence[str]) -> None:
    """Run one command of fedfuse to its end."""
    subprocess.run([sys.executable, "-m", "fedfuse", *words], check=True, stdout=subprocess.DEVNULL)


@contextlib.contextmanager
def running(words: Sequence[str]) -> Iterator[None]:
    """Keep one command of fedfuse running."""
    process = subprocess.Popen(
        [sys.executable, "-m", "fedfuse", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


if __name__ == "__main__":
    main()
