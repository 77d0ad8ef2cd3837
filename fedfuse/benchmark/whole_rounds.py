"""Whole rounds of KnFu as a run has them: in this process, in workers on all cores, and on Flower's Ray runtime."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedfuse.benchmark.cells import (
    BATCH_SIZE,
    GLOBAL_TEST,
    LEARNING_RATE,
    MODELS,
    MOMENTUM,
    NUM_CLASSES,
    OWN_TEST,
    SAMPLES,
    TRANSFER_SAMPLES,
    VALIDATION,
    Cell,
)
from fedfuse.benchmark.jobs import operations_of
from fedfuse.benchmark.turns import Turns
from fedfuse.composition import compose
from fedfuse.configuration import Configuration
from fedfuse.engine.workers import num_cores


def local(cell: Cell, turns: Turns) -> None:
    """Run the clients in this process."""
    _run(configure(cell, ["engine=local", "++engine.workers=1"]), cell, turns)


def workers(cell: Cell, turns: Turns) -> None:
    """Run the clients in as many processes of fedfuse as there are cores."""
    _run(configure(cell, ["engine=local", f"engine.workers={num_cores()}"]), cell, turns)


def ray(cell: Cell, turns: Turns) -> None:
    """Run the clients in as many Ray workers as there are cores."""
    _run(configure(cell, ["engine=ray", f"engine.workers={num_cores()}"]), cell, turns)


def configure(cell: Cell, engine: Sequence[str]) -> Configuration:
    """Configure a run of noise with a round for every turn.

    Parameters
    ----------
    cell : Cell
        What to run.
    engine : Sequence[str]
        Overrides that say where.
    """
    model = MODELS[cell.model]
    own = SAMPLES + OWN_TEST + VALIDATION
    total = cell.clients * own + TRANSFER_SAMPLES + GLOBAL_TEST
    return compose(
        [
            f"num_clients={cell.clients}",
            f"num_rounds={1 + cell.repeats}",
            "local_baseline=false",
            f"model=[{model.component}]",
            "data=custom",
            "data._target_=fedfuse.benchmark.noise.noise",
            f"++data.samples={total}",
            f"++data.shape={[*model.shape]}",
            f"++data.classes={NUM_CLASSES}",
            "partition=iid",
            f"transfer.size={TRANSFER_SAMPLES}",
            f"split.global_test={GLOBAL_TEST / total}",
            f"split.test={OWN_TEST / own}",
            f"split.validation={VALIDATION / own}",
            *(
                f"{verb}.{key}={value}"
                for verb in ("learn", "absorb")
                for key, value in {
                    "epochs": 1,
                    "batch_size": BATCH_SIZE,
                    "optimizer.lr": LEARNING_RATE,
                    "optimizer.momentum": MOMENTUM,
                }.items()
            ),
            *engine,
        ]
    )


class _TurnOfARound:
    """Follows a run as a tracker does, and holds it up between rounds."""

    def __init__(self, cell: Cell, turns: Turns) -> None:
        self._cell = cell
        self._turns = turns

    def begin(self, directory: Path, configuration: Mapping[str, Any]) -> list[str]:
        self._turns.ready(operations_of(self._cell))
        return []

    def round_finished(self, metrics: Mapping[str, Any], stage: str) -> None:
        self._turns.finished()

    def end(self, summary: Mapping[str, Any] | None, figures: Sequence[Path]) -> None:
        pass


def _run(configuration: Configuration, cell: Cell, turns: Turns) -> None:
    from fedfuse.simulate import simulate  # needs torch

    with tempfile.TemporaryDirectory() as folder:
        simulate(configuration, Path(folder) / "run", (_TurnOfARound(cell, turns),))
