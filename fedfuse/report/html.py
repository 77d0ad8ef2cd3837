"""The report of a run: one file of HTML, made from the files in the run's directory and from nothing else."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedfuse.configuration import Component, Configuration, to_yaml
from fedfuse.report import page
from fedfuse.report.accuracy import accuracy_by_round
from fedfuse.report.audits import findings_table
from fedfuse.report.clients import client_table, label_counts
from fedfuse.report.exchange import bytes_and_seconds, left_out, listening, seconds_by_verb
from fedfuse.report.numbers import count, signed_points, statistic_of
from fedfuse.report.overrides import overrides_of
from fedfuse.report.page import Html, KeyNumber, Section
from fedfuse.report.recorded_run import RecordedRun, read_run
from fedfuse.report.table import UNKNOWN, format_bytes, format_percent
from fedfuse.results import write_text
from fedfuse.summary import ROUNDS_AVERAGED

REPORT_FILE = "report.html"


def write_report(directory: Path) -> Path:
    """Write the report of a run, finished or not, into its directory.

    Parameters
    ----------
    directory : Path
        Holds ``config.yaml`` and what else has been recorded.

    Returns
    -------
    Path
        The file, which replaces that of an earlier report as a whole.

    Raises
    ------
    ConfigurationError
        If it is not the directory of a run, or if a file in it is damaged.
    """
    run = read_run(directory)
    sections = [
        Section("Result", _result(run)),
        Section("Accuracy by round", accuracy_by_round(run)),
        Section("Clients", client_table(run)),
        Section("Label counts", label_counts(run)),
        Section("Who listened to whom", listening(run)),
        Section("What was exchanged", bytes_and_seconds(run)),
        Section("Clients left out", left_out(run)),
        Section("Privacy", _privacy(run)),
        Section("What attacks found", findings_table(run)),
        Section("Configuration", page.details("Every value of config.yaml", page.code(to_yaml(run.configuration)))),
        Section("How to repeat this run", _repeat(run, directory)),
    ]
    configuration = run.configuration
    title = f"{configuration.strategy.name} on {configuration.data.name}"
    write_text(directory, REPORT_FILE, page.page(title, _lead(run), [one for one in sections if one.body]))
    return directory / REPORT_FILE


def _lead(run: RecordedRun) -> str:
    configuration = run.configuration
    done = run.metrics[-1]["round"] if run.metrics else 0
    words = f"{count(configuration.num_clients, 'client')}, {count(done, 'round')}, seed {configuration.seed}."
    if not run.metrics:
        return f"{words} The run has begun, and no round has been recorded yet."
    words += f" The last round was recorded on {run.last_recorded:%Y-%m-%d at %H:%M}."
    if not run.is_finished:
        words += f" This run has not ended: {done} of {count(configuration.num_rounds, 'round')} are recorded"
        if run.local_only_metrics:
            words += f", and {len(run.local_only_metrics)} of its local-only baseline"
        words += ". All numbers are those so far."
    return words


def _result(run: RecordedRun) -> Html:
    configuration = run.configuration
    setup = [
        ("Strategy", _in_words(configuration.strategy)),
        ("Data", _in_words(configuration.data)),
        ("Partition", _in_words(configuration.partition)),
        ("Models", ", ".join(model.name for model in configuration.model)),
        ("Clients", _participation(configuration)),
        ("Transfer set", _transfer(configuration)),
        ("Protectors", ", ".join(step.name for step in configuration.privacy) or "none"),
        ("Seed", str(configuration.seed)),
    ]
    if not run.metrics:
        return page.facts(setup)
    up, down = (sum(line[f"bytes_{way}"] for line in run.metrics) for way in ("up", "down"))
    seconds = seconds_by_verb(run).get("round")
    numbers = [
        _accuracy(run, "personal", "mean", "Own test data, mean of clients"),
        _accuracy(run, "general", "mean", "Global test data, mean of clients"),
        _accuracy(run, "personal", "worst_10_percent", "Own test data, worst 10 % of clients"),
        KeyNumber("Sent", format_bytes(up + down), f"{format_bytes(up)} up, {format_bytes(down)} down"),
        KeyNumber("Time", UNKNOWN if seconds is None else _duration(seconds), "all rounds, without the baseline"),
    ]
    of_what = "latest accuracies of all clients" if run.is_finished else "accuracies of the last round's participants"
    explanation = f"These are the {of_what}" + (
        ": trained alone \N{RIGHTWARDS ARROW} in this run."
        if any(run.local_only.values())
        else ". There is no local-only baseline to compare them with."
    )
    return page.join(page.facts(setup), page.key_numbers(numbers), page.paragraph(explanation))


def _accuracy(run: RecordedRun, kind: str, statistic: str, label: str) -> KeyNumber:
    before, after = statistic_of(run.local_only[kind], statistic), statistic_of(run.federated[kind], statistic)
    recent = [line[f"{kind}_{statistic}"] for line in run.metrics[-ROUNDS_AVERAGED:]]
    known = [value for value in recent if value is not None]
    details = [] if before is None or after is None else [f"{signed_points(after - before)} points"]
    if known:
        details.append(f"mean of the last {count(len(known), 'round')} {format_percent(sum(known) / len(known))}")
    value = UNKNOWN if after is None else f"{format_percent(after)} %"
    if before is not None and after is not None:
        value = f"{format_percent(before)} \N{RIGHTWARDS ARROW} {value}"
    return KeyNumber(label, value, "; ".join(details) if after is not None else "no client told it")


def _in_words(part: Component) -> str:
    # The name custom says nothing of which class it is.
    words = [part.target] if part.name == "custom" else []
    for name, value in part.arguments.items():
        if value is None:  # left open: nothing to say
            continue
        words.append(f"{name} {str(value).lower() if isinstance(value, bool) else value}")
    return f"{part.name} ({', '.join(words)})" if words else part.name


def _participation(configuration: Configuration) -> str:
    if configuration.fraction == 1:
        return f"{configuration.num_clients}, all in every round"
    return f"{configuration.num_clients}, of which {100 * configuration.fraction:g} % take part in a round"


def _transfer(configuration: Configuration) -> str:
    transfer = configuration.transfer
    samples = f"{transfer.size} samples held out" if transfer.path is None else f"from {transfer.path}"
    return f"{samples}, policy {_in_words(transfer.policy)}"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def _privacy(run: RecordedRun) -> Html:
    if run.guarantees is None:
        return page.paragraph("Nothing is known of guarantees: guarantees.json was not written.")
    promises = [_promise(guarantee) for guarantee in run.guarantees["protectors"]]
    if not promises:
        promises = ["No protector: what was sent was neither softened nor noised."]
    statement = (
        "Differential privacy is guaranteed as far as stated here, and not beyond."
        if run.guarantees["differential_privacy"]
        else "No differential privacy is guaranteed."
    )
    told = ", ".join(run.configuration.share_facts) or "nothing"
    promises.append(f"Besides its knowledge, a client may tell the server: {told}. No protector acts on that.")
    return page.join(page.paragraph(statement), *map(page.paragraph, promises))


def _promise(guarantee: Mapping[str, Any]) -> str:
    words = f"{guarantee['protector']}: {guarantee['mechanism']}"
    if guarantee["epsilon"] is None:
        return f"{words}. It guarantees nothing."
    return (
        f"{words}. It guarantees epsilon {guarantee['epsilon']:g}, delta {guarantee['delta']:g} for one "
        f"{guarantee['unit']} against {guarantee['adversary']}."
    )


def _repeat(run: RecordedRun, directory: Path) -> Html:
    blocks = []
    checkpoint = directory / "checkpoint"
    # Real clients keep their states on their own machines, so that no checkpoint of the server's has any.
    deployed = checkpoint.is_dir() and not any(
        (checkpoint / clients).exists() for clients in ("clients.sqlite", "clients.pt", "clients")
    )
    command = "server" if deployed else "run"
    if checkpoint.is_dir() and not run.configuration.audit:  # attacks need all rounds in one piece
        words = ["fedfuse", command, f"resume={directory}"]
        if run.is_finished:
            words.append(f"num_rounds={2 * run.configuration.num_rounds}")
            blocks.append(page.paragraph("To go on where it stopped, up to a later round:"))
        else:
            blocks.append(page.paragraph("To go on where it stopped:"))
        blocks.append(page.code(shlex.join(words)))
    overrides = overrides_of(run.configuration)
    if overrides is None:
        blocks.append(
            page.paragraph(
                "The run has parts or values that are not fedfuse's own, so that no command line can be derived from "
                "its configuration. config.yaml, which is shown above, holds every value."
            )
        )
    else:
        blocks.append(page.paragraph("To run the same from the start, in a new directory:"))
        blocks.append(page.code(shlex.join(["fedfuse", command, *overrides])))
    if run.software:
        blocks += [page.paragraph("It ran with:"), page.facts(list(run.software.items()))]
    return page.join(*blocks)
