"""The table that a run ends with: each client before and after federation, and the spread over clients."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import Box
from rich.console import Console
from rich.table import Table
from rich.text import Text

MOST_CLIENTS_SHOWN = 40

UNKNOWN = "-"

# Rules made of ASCII, so that the table is the same in a terminal, in a log file and in an e-mail.
ASCII_RULES = Box("    \n    \n -- \n    \n -- \n    \n    \n    \n", ascii=True)

SPREAD_ROWS = {
    "mean": "mean",
    "std dev": "std",
    "worst": "worst",
    "worst 10 %": "worst_10_percent",
}


def format_percent(fraction: float | None) -> str:
    """Show a fraction in per cent with one decimal, without the sign: 0.9123 is ``91.2``, None is ``-``."""
    return UNKNOWN if fraction is None else f"{100 * fraction:.1f}"


def format_gain(fraction: float | None) -> str:
    """Show a difference of fractions in percentage points with its sign: 0.05 is ``+5.0``, None is ``-``."""
    if fraction is None:
        return UNKNOWN
    return f"{round(100 * fraction, 1) + 0.0:+.1f}"  # + 0.0 makes +0.0 of -0.0


def format_bytes(num_bytes: float) -> str:
    """Show a number of bytes in the decimal unit that fits: 12345 is ``12.3 kB``."""
    if num_bytes < 1000:
        return f"{num_bytes:.0f} B"
    for unit in ("kB", "MB", "GB"):
        num_bytes /= 1000
        if num_bytes < 999.95:
            return f"{num_bytes:.1f} {unit}"
    return f"{num_bytes / 1000:.1f} TB"


def final_table(summary: Mapping[str, Any]) -> Table:
    """Make the table of a finished run: a row a client, then the spread over clients.

    Of more than 40 clients only the 20 with the worst and the 20 with the best accuracy after federation are
    shown, from worst to best.

    Parameters
    ----------
    summary : mapping
        What `fedfuse.summary.write_summary` returns.
    """
    clients = summary["clients"]
    table = Table(
        box=ASCII_RULES,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        title=_title(clients),
        title_justify="left",
        title_style="bold",
    )
    table.add_column("client", justify="right", no_wrap=True)
    table.add_column("examples", justify="right", no_wrap=True)
    table.add_column("model", overflow="fold")
    table.add_column("local only", justify="right", no_wrap=True)
    table.add_column("federated", justify="right", no_wrap=True)
    table.add_column("gain", justify="right", no_wrap=True)
    table.add_column("global test", justify="right", no_wrap=True)

    if len(clients) <= MOST_CLIENTS_SHOWN:
        for client in clients:
            _add_client(table, client)
    else:
        ranked, half = _worst_to_best(clients), MOST_CLIENTS_SHOWN // 2
        for client in ranked[:half]:
            _add_client(table, client)
        table.add_row("...", "...", f"{len(ranked) - MOST_CLIENTS_SHOWN} more clients", *["..."] * 4)
        for client in ranked[-half:]:
            _add_client(table, client)

    table.add_section()
    spread = summary["spread"]
    for label, name in SPREAD_ROWS.items():
        before = _value(spread["local_only"]["personal"], name)
        after = _value(spread["federated"]["personal"], name)
        table.add_row(
            Text(label, style="bold"),
            "",
            "",
            format_percent(before),
            format_percent(after),
            "" if name == "std" else _gain(_difference(before, after)),
            format_percent(_value(spread["federated"]["general"], name)),
        )
    return table


def footer_lines(summary: Mapping[str, Any], directory: Path) -> list[str]:
    """Make the lines below the table: global test, communication, time, and where the files are."""
    before = _value(summary["spread"]["local_only"]["general"], "mean")
    after = _value(summary["spread"]["federated"]["general"], "mean")
    seconds = summary["seconds"]
    lines = []
    if before is not None and after is not None:
        comparison = f"local only {format_percent(before)} %, federated {format_percent(after)} %"
        lines.append(f"Global test: {comparison} ({format_gain(after - before)})")
    elif after is not None:
        lines.append(f"Global test: federated {format_percent(after)} %")
    up, down = format_bytes(summary["bytes_up"]), format_bytes(summary["bytes_down"])
    num_rounds = summary["num_rounds"]
    lines.append(f"Sent:        {up} up, {down} down, in {num_rounds} round{'s' if num_rounds != 1 else ''}")
    by_verb = ", ".join(f"{verb} {duration:.1f}" for verb, duration in seconds.items() if verb != "round")
    lines.append(f"Time:        {seconds.get('round', 0.0):.1f} s" + (f" ({by_verb})" if by_verb else ""))
    lines.append(f"Files:       {directory}")
    return lines


def print_summary(console: Console, summary: Mapping[str, Any], directory: Path) -> None:
    """Print the table of a finished run and the lines below it."""
    console.print(final_table(summary))
    console.print()
    for line in footer_lines(summary, directory):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _title(clients: Sequence[Mapping[str, Any]]) -> str:
    title = "Accuracy of each client on its own test data, in per cent"
    if len(clients) > MOST_CLIENTS_SHOWN:
        half = MOST_CLIENTS_SHOWN // 2
        title += f"\nThe {half} worst and the {half} best of {len(clients)} clients after federation"
    num_compared = sum(client["gain"] is not None for client in clients)
    if 0 < num_compared < len(clients):
        title += f"\nMean and spread are over the {num_compared} clients evaluated both before and after"
    return title


def _worst_to_best(clients: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Rank clients; those of unknown accuracy go to the middle, as neither worst nor best."""
    known = [client for client in clients if client["personal_accuracy"] is not None]
    unknown = [client for client in clients if client["personal_accuracy"] is None]
    known.sort(key=lambda client: (client["personal_accuracy"], client["client_id"]))
    middle = len(known) // 2
    return known[:middle] + unknown + known[middle:]


def _add_client(table: Table, client: Mapping[str, Any]) -> None:
    num_examples = client["num_examples"]
    table.add_row(
        str(client["client_id"]),
        UNKNOWN if num_examples is None else str(num_examples),
        Text(client["model"]),
        format_percent(client["local_only_accuracy"]),
        format_percent(client["personal_accuracy"]),
        _gain(client["gain"]),
        format_percent(client["general_accuracy"]),
    )


def _gain(gain: float | None) -> Text:
    shown = format_gain(gain)
    if shown in (UNKNOWN, "+0.0"):
        return Text(shown)
    return Text(shown, style="green" if shown.startswith("+") else "red")


def _difference(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before


def _value(spread: Mapping[str, float] | None, name: str) -> float | None:
    return None if spread is None else spread[name]
