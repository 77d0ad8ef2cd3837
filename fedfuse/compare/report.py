"""The files of a comparison: tables, figure and a page to read, always all of them and of the same state."""

import io
import json
import os
import shlex
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from fedfuse.compare.comparison import ACCURACIES, MEASURES, Block, Comparison, Row, make_comparison, to_plain
from fedfuse.compare.figure import draw_comparison
from fedfuse.compare.outcome import Outcome, read_measures, run_directory
from fedfuse.compare.plan import Plan, Run, read_plan
from fedfuse.compare.statistics import Difference
from fedfuse.compare.table import (
    DIFFERENCE_HEADERS,
    MEASURE_HEADERS,
    METHOD_NOTES,
    NAMES,
    difference_cells,
    differences,
    error_lines,
    format_setting,
    measure_cells,
    to_csv,
    to_markdown,
)
from fedfuse.report import page
from fedfuse.report.figures import DOTS_PER_INCH
from fedfuse.report.page import Cell, Column, Html, KeyNumber, Section
from fedfuse.report.table import format_percent
from fedfuse.results import write_text

JSON_FILE = "comparison.json"
FIGURE_FILE = "comparison.png"
REPORT_FILE = "report.html"
SIGNIFICANT = 0.05


def write_report(directory: Path) -> Path:
    """Write all files of a comparison anew, from its plan and its runs.

    Parameters
    ----------
    directory : Path
        The directory of the comparison.

    Returns
    -------
    Path
        Its ``report.html``.

    Raises
    ------
    ConfigurationError
        If it is not the directory of a comparison.
    """
    plan = read_plan(directory)
    return write_files(directory, plan, read_comparison(directory, plan))


def read_comparison(directory: Path, plan: Plan) -> Comparison:
    """Compare what has finished so far in a directory."""
    return make_comparison(plan, read_outcomes(directory, plan))


def read_outcomes(directory: Path, plan: Plan) -> dict[str, Outcome]:
    """Read what became of all runs, by folder: finished ones from their directories, failures as last noted."""
    errors = _noted_errors(directory / JSON_FILE)
    outcomes = {}
    for run in plan.runs:
        measures = read_measures(directory, run)
        outcomes[run.folder] = Outcome(measures, None if measures is not None else errors.get(run.folder))
    return outcomes


def write_files(directory: Path, plan: Plan, comparison: Comparison) -> Path:
    """Replace all files, each as a whole; return the path of the page."""
    write_text(directory, "comparison.md", to_markdown(comparison, command_of(plan)))
    write_text(directory, "comparison.csv", to_csv(comparison))
    write_text(directory, JSON_FILE, json.dumps(to_plain(comparison), indent=2, allow_nan=False) + "\n")
    picture = io.BytesIO()
    draw_comparison(comparison).savefig(picture, dpi=DOTS_PER_INCH, metadata={"Software": None})
    temporary = directory / f".{FIGURE_FILE}.tmp"
    temporary.write_bytes(picture.getvalue())
    os.replace(temporary, directory / FIGURE_FILE)  # noqa: PTH105 - the name that says that it is atomic
    write_text(directory, REPORT_FILE, make_page(directory, plan, comparison, picture.getvalue()))
    return directory / REPORT_FILE


def command_of(plan: Plan) -> str:
    """Write the command that makes the comparison, as in a shell."""
    words = ["fedfuse", "compare", *plan.words]
    return shlex.join(words if plan.config_dir is None else [*words, f"--config-dir={plan.config_dir}"])


def make_page(directory: Path, plan: Plan, comparison: Comparison, picture: bytes) -> str:
    """Make the page of a comparison.

    Parameters
    ----------
    directory : Path
        Where it will stand: the reports of runs that are there are linked to.
    plan : Plan
        What was to be run.
    comparison : Comparison
        What came of it so far.
    picture : bytes
        The figure, a PNG.
    """
    num_runs, num_finished = len(plan.runs), sum(outcome.measures is not None for _, outcome in comparison.runs)
    errors = [page.paragraph(line) for line in error_lines(comparison)]
    accuracy = page.join(
        page.key_numbers(_key_numbers(plan, comparison)),
        *errors,
        page.figure(
            page.png(picture, "Accuracy on own against global test data, a point for each method in each setting"),
            "A point a method: mean and standard deviation over seeds. Further up is better for the clients "
            "themselves, further right for data like everybody's.",
        ),
        *(_measures(block) for block in comparison.blocks),
        *map(page.paragraph, comparison.notes),
        page.paragraph(METHOD_NOTES[0]),
        page.paragraph(METHOD_NOTES[2]),
    )
    compared = page.join(
        *(_differences(block) for block in comparison.blocks if differences(block)),
        page.paragraph(f"{METHOD_NOTES[1]} Differences are coloured where it is below {SIGNIFICANT}."),
    )
    again = page.join(
        page.paragraph("The same comparison again:"),
        page.code(command_of(plan)),
        page.paragraph("What is missing of this one; runs that have finished stay as they are:"),
        page.code(shlex.join(["fedfuse", "compare", f"resume={directory}"])),
    )
    sections = [
        Section("Accuracy", accuracy),
        Section("Difference to local only", compared),
        Section("Runs", _runs(directory, comparison)),
        Section("How to repeat it", again),
    ]
    lead = (
        f"{num_finished} of {num_runs} runs have finished. Those of one seed and setting have the same partitions "
        "and, unless a strategy hands out its own, the same initial weights."
    )
    return page.page("Comparison", lead, sections)


def _key_numbers(plan: Plan, comparison: Comparison) -> list[KeyNumber]:
    methods = dict.fromkeys(run.method for run in plan.runs)
    seeds = dict.fromkeys(run.seed for run in plan.runs)
    return [
        KeyNumber("Methods", str(len(methods)), ", ".join(methods)),
        KeyNumber("Settings", str(len(comparison.blocks))),
        KeyNumber("Seeds", str(len(seeds)), ", ".join(map(str, seeds))),
    ]


def _measures(block: Block) -> Html:
    columns = [Column(header, header != "method") for header in MEASURE_HEADERS]
    rows = [
        [
            Cell(text, value)
            for text, value in zip(measure_cells(row), [None, row.num_finished, *_means(row)], strict=True)
        ]
        for row in block.rows
    ]
    return page.table(format_setting(block.setting), columns, rows)


def _means(row: Row) -> list[float | None]:
    return [None if estimate is None else estimate.mean for estimate in (row.estimates[name] for name in MEASURES)]


def _differences(block: Block) -> Html:
    columns = [Column(header, header not in ("measure", "method")) for header in DIFFERENCE_HEADERS]
    rows = [_difference_row(*difference) for difference in differences(block)]
    return page.table(format_setting(block.setting), columns, rows)


def _difference_row(name: str, method: str, difference: Difference) -> list[Cell]:
    measure, method, shown, interval, p, adjusted_p = difference_cells(name, method, difference)
    return [
        Cell(measure),
        Cell(method),
        Cell(shown, difference.mean, _tone(difference)),
        Cell(interval, difference.low),
        Cell(p, difference.p),
        Cell(adjusted_p, difference.adjusted_p),
    ]


def _tone(difference: Difference) -> Literal["", "good", "bad"]:
    if difference.adjusted_p is None or difference.adjusted_p >= SIGNIFICANT:
        return ""
    return "good" if difference.mean > 0 else "bad"


def _runs(directory: Path, comparison: Comparison) -> Html:
    columns = [
        Column("run"),
        *(Column(key) for key in _setting_keys(comparison)),
        Column("method"),
        Column("seed", True),
        *(Column(NAMES[name], True) for name in ACCURACIES),
        Column("state"),
    ]
    return page.table("Every run", columns, [_run_row(directory, run, outcome) for run, outcome in comparison.runs])


def _run_row(directory: Path, run: Run, outcome: Outcome) -> list[Cell]:
    report = run_directory(directory, run) / REPORT_FILE
    link = quote(report.relative_to(directory).as_posix()) if report.exists() else ""
    accuracies = [None if outcome.measures is None else getattr(outcome.measures, name) for name in ACCURACIES]
    state = "finished" if outcome.measures is not None else outcome.error or "not finished"
    return [
        Cell(run.folder, link=link),
        *(Cell(word.partition("=")[2]) for word in run.setting),
        Cell(run.method),
        Cell(str(run.seed), run.seed),
        *(Cell(format_percent(value), value) for value in accuracies),
        Cell(state),
    ]


def _setting_keys(comparison: Comparison) -> list[str]:
    return [word.partition("=")[0] for word in comparison.blocks[0].setting]


def _noted_errors(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    runs = json.loads(path.read_text(encoding="utf-8"))["runs"]
    return {run["folder"]: run["error"] for run in runs if run["error"] is not None}
