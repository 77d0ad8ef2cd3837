"""What a tracker is told while a run goes on, and how a fault of one is kept from the run."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

from fedfuse.results import LOCAL_ONLY, read_metrics

FEDERATED = "federated"


class Tracker(Protocol):
    """A place outside the run's own files that follows a run, such as Weights & Biases.

    A tracker is told all recorded rounds again by a run that is resumed, and those that it repeats once more: it must
    find in the run's directory what it needs to continue where it was. A round that is repeated has the same metrics.
    """

    def begin(self, directory: Path, configuration: Mapping[str, Any]) -> list[str]:
        """Start to follow the run in a directory; return lines that tell the user where to look."""
        ...

    def round_finished(self, metrics: Mapping[str, Any], stage: str) -> None:
        """Take a line of ``metrics.jsonl``; the stage is `FEDERATED` or `fedfuse.results.LOCAL_ONLY`."""
        ...

    def end(self, summary: Mapping[str, Any] | None, figures: Sequence[Path]) -> None:
        """Take what the run came to and its figures; no summary means that it was stopped."""
        ...


class Trackers:
    """All trackers of a run. One that fails is named once and not told any more; the run goes on.

    Parameters
    ----------
    trackers : Sequence[Tracker]
        Those that were configured.
    note : Callable[[str], None]
        Shows a line to the user.
    """

    def __init__(self, trackers: Sequence[Tracker], note: Callable[[str], None]) -> None:
        self._trackers = list(trackers)
        self._note = note

    def begin(self, directory: Path, configuration: Mapping[str, Any]) -> None:
        """Tell all, show where to look, and tell of the rounds that were recorded before the run was resumed."""

        def begin(tracker: Tracker) -> None:
            for line in tracker.begin(directory, configuration):
                self._note(line)
            for stage, folder in ((FEDERATED, directory), (LOCAL_ONLY, directory / LOCAL_ONLY)):
                for metrics in read_metrics(folder):
                    tracker.round_finished(metrics, stage)

        self._tell(begin)

    def __enter__(self) -> Self:
        """Follow a run for as long as the block lasts."""
        return self

    def __exit__(self, *error: object) -> None:
        """Tell those that have not been told of the end that the run was stopped."""
        self.end(None)

    def round_finished(self, metrics: Mapping[str, Any], stage: str) -> None:
        """Tell all of a round."""
        self._tell(lambda tracker: tracker.round_finished(metrics, stage))

    def end(self, summary: Mapping[str, Any] | None, figures: Sequence[Path] = ()) -> None:
        """Tell all of the end, once."""
        self._tell(lambda tracker: tracker.end(summary, figures))
        self._trackers.clear()

    def _tell(self, what: Callable[[Tracker], None]) -> None:
        for tracker in list(self._trackers):
            try:
                what(tracker)
            except Exception as error:  # a tracker's fault, of whatever kind, is never the run's
                self._trackers.remove(tracker)
                text = " ".join(str(error).split())[:300]
                self._note(f"{type(tracker).__name__} failed and is told nothing more: {type(error).__name__}: {text}")
