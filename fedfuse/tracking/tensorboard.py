"""Follow a run in TensorBoard: ``tensorboard --logdir DIR/tensorboard``."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedfuse.errors import ConfigurationError
from fedfuse.tracking.scalars import scalars
from fedfuse.tracking.tracker import FEDERATED

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FOLDER = "tensorboard"


class TensorBoard:
    """Writes the scalars of every round and the figures into ``tensorboard`` of the run's directory.

    The federated rounds and those of the local-only baseline have a folder each and the same names, so TensorBoard
    draws both into one chart. Nothing leaves the machine.

    Raises
    ------
    ConfigurationError
        If the package ``tensorboard`` is not installed.
    """

    def __init__(self) -> None:
        try:
            import torch.utils.tensorboard  # noqa: F401 it fails without the package, before the run starts
        except ImportError as error:
            raise ConfigurationError(
                "the package tensorboard is missing: pip install 'fedfuse[tensorboard]'."
            ) from error
        self._directory = Path()
        self._writers: dict[str, SummaryWriter] = {}
        self._last_rounds: dict[str, int] = {}

    def begin(self, directory: Path, configuration: Mapping[str, Any]) -> list[str]:
        """Take the directory of the run; return the command that shows it."""
        self._directory = directory / FOLDER
        return [f"TensorBoard: tensorboard --logdir {shlex.quote(str(self._directory))}"]

    def round_finished(self, metrics: Mapping[str, Any], stage: str) -> None:
        """Write the scalars of a round, once; the first one that is told replaces what was written from it on."""
        number = metrics["round"]
        if number <= self._last_rounds.get(stage, 0):
            return
        writer = self._writer(stage, purge_step=number)
        for name, value in scalars(metrics).items():
            writer.add_scalar(name, value, number)
        writer.flush()
        self._last_rounds[stage] = number

    def end(self, summary: Mapping[str, Any] | None, figures: Sequence[Path]) -> None:
        """Write the figures that are PNG files, at the last round, and close all files."""
        if summary is not None:
            for path in figures:
                if path.suffix == ".png":
                    self._add_figure(path, summary["num_rounds"])
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def _add_figure(self, path: Path, number: int) -> None:
        from PIL import Image

        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        # A run that had all its rounds when it was resumed has no writer yet, and keeps them.
        writer = self._writer(FEDERATED, purge_step=number + 1)
        writer.add_image(f"figures/{path.stem}", pixels, number, dataformats="HWC")

    def _writer(self, stage: str, purge_step: int) -> "SummaryWriter":
        """Open the files of a stage once; TensorBoard then ignores what older files have from a step on."""
        if stage not in self._writers:
            from torch.utils.tensorboard import SummaryWriter

            self._writers[stage] = SummaryWriter(str(self._directory / stage), purge_step=purge_step)
        return self._writers[stage]
