"""Carry out the plan of a comparison: run what is missing, and keep display and files up to date."""

from collections.abc import Callable, Sequence
from pathlib import Path

from fedfuse.compare.comparison import Comparison, make_comparison
from fedfuse.compare.display import Display
from fedfuse.compare.outcome import Outcome, log_path, read_measures, rounds_done
from fedfuse.compare.plan import Plan, Run
from fedfuse.compare.processes import Process, error_of, run_all
from fedfuse.compare.report import read_outcomes, write_files


def carry_out(directory: Path, plan: Plan, jobs: int, start: Callable[[Run], Process], display: Display) -> Comparison:
    """Run what has not finished yet.

    Parameters
    ----------
    directory : Path
        That of the comparison.
    plan : Plan
        What to run.
    jobs : int
        How many runs at a time.
    start : callable
        Starts a run, or what is left of it.
    display : Display
        Shows how it goes.

    Returns
    -------
    Comparison
        With what failed, if anything.

    Raises
    ------
    KeyboardInterrupt
        If interrupted: the runs under way have been interrupted too, and the files say how far all is.
    """
    outcomes = read_outcomes(directory, plan)
    missing = [run for run in plan.runs if outcomes[run.folder].measures is None]
    # They are tried again, so whatever is noted of them is over.
    outcomes |= {run.folder: Outcome() for run in missing}
    num_ended = len(plan.runs) - len(missing)

    def refresh() -> Comparison:
        comparison = make_comparison(plan, outcomes)
        display.compared(comparison)
        write_files(directory, plan, comparison)
        return comparison

    def ended(run: Run, code: int) -> None:
        nonlocal num_ended
        num_ended += 1
        outcomes[run.folder] = _outcome(directory, run, code)
        display.run_ended(num_ended, len(plan.runs), run, outcomes[run.folder])
        refresh()

    def watch(under_way: Sequence[Run]) -> None:
        display.under_way({run: rounds_done(directory, run) for run in under_way})

    refresh()
    try:
        run_all(missing, jobs, start, ended, watch)
    except KeyboardInterrupt:
        # Some may have finished while they were interrupted.
        outcomes |= {run.folder: Outcome(measures) for run in missing if (measures := read_measures(directory, run))}
        refresh()
        raise
    return make_comparison(plan, outcomes)


def _outcome(directory: Path, run: Run, code: int) -> Outcome:
    measures = read_measures(directory, run)
    if measures is not None:
        return Outcome(measures)
    if code != 0:
        return Outcome(error=error_of(code, log_path(directory, run)))
    return Outcome(error=f"ended after {rounds_done(directory, run)} rounds instead of {run.num_rounds}")
