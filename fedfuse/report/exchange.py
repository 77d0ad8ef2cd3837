"""The parts of a report on what was exchanged: who listened to whom, bytes and seconds, who was left out."""

from collections.abc import Sequence

import numpy as np

from fedfuse.report import page
from fedfuse.report.chart import Line, heat_map, line_chart
from fedfuse.report.numbers import number_cell, weight_cell
from fedfuse.report.page import Cell, Column, Html, KeyNumber
from fedfuse.report.recorded_run import RecordedRun
from fedfuse.report.rounds_shown import known_by_round, note_on_thinning, thinned
from fedfuse.report.table import UNKNOWN, format_bytes

MOST_CLIENTS_IN_MATRIX = 60
MOST_LISTENED_TO = 20
MOST_LEFT_OUT = 200
MOST_CLIENTS_NAMED = 20

VERBS = ("learn", "express", "protect", "fuse", "absorb", "evaluate")


def listening(run: RecordedRun) -> Html:
    """Show the latest relevance: for very many clients only who was listened to most."""
    if run.relevance is None:
        return page.NOTHING
    round, relevance, client_ids = run.relevance
    ids = [str(client_id) for client_id in client_ids]
    if len(ids) <= MOST_CLIENTS_IN_MATRIX:
        caption = f"Round {round}: how much each client (row) listened to each client (column). Each row sums to 1."
        reading = f"In round {round}, client {{row}} listened to client {{column}} with weight {{value}}"
        return heat_map(caption, ids, relevance, "listener", reading)
    from_others = relevance.astype(float)
    np.fill_diagonal(from_others, 0)
    heard = from_others.sum(axis=0) / (len(ids) - 1)
    sources = [
        [number_cell(int(client_ids[column])), weight_cell(heard[column]), weight_cell(relevance[column, column])]
        for column in np.argsort(-heard, kind="stable")[:MOST_LISTENED_TO]
    ]
    strongest = np.argsort(-from_others, axis=None, kind="stable")[:MOST_LISTENED_TO]
    pairs = [
        [number_cell(int(client_ids[row])), number_cell(int(client_ids[column])), weight_cell(from_others[row, column])]
        for row, column in zip(*np.unravel_index(strongest, from_others.shape), strict=True)
    ]
    return page.join(
        page.paragraph(
            f"{len(ids)} clients are too many for a matrix. These are the {len(sources)} clients that others listened "
            f"to most in round {round}, and the {len(pairs)} pairs with the most weight. The weights of a listener sum "
            "to 1; listening to oneself is not counted."
        ),
        page.side_by_side(
            page.table(
                "Most listened to",
                [Column("client", True), Column("mean weight at others", True), Column("weight at itself", True)],
                sources,
            ),
            page.table(
                "Strongest pairs", [Column("listener", True), Column("source", True), Column("weight", True)], pairs
            ),
        ),
    )


def bytes_and_seconds(run: RecordedRun) -> Html:
    """Show the bytes by round and in total, and what the time went into."""
    if not run.metrics:
        return page.NOTHING
    shown = thinned(run.metrics)
    totals = {way: sum(line[f"bytes_{way}"] for line in run.metrics) for way in ("up", "down")}
    num_clients, num_rounds = run.configuration.num_clients, len(run.metrics)
    numbers = [
        KeyNumber(
            label,
            format_bytes(totals[way]),
            f"{format_bytes(totals[way] / num_clients)} a client, {format_bytes(totals[way] / num_rounds)} a round",
        )
        for way, label in (("up", "Up, clients to server"), ("down", "Down, server to clients"))
    ]
    up, down = (known_by_round(shown, f"bytes_{way}") for way in ("up", "down"))
    notes = {
        round: f"round {round}\nup: {format_bytes(up[round])}\ndown: {format_bytes(down[round])}"
        for round in sorted(up)
    }
    description = f"Bytes by round: {format_bytes(totals['up'])} up and {format_bytes(totals['down'])} down in total."
    lines = [Line("up", up, "accent"), Line("down", down, "second", "6 4")]
    chart = line_chart(description, lines, notes, "sent in a round", _round_bytes, from_zero=True)
    return page.join(
        page.key_numbers(numbers),
        *note_on_thinning(run.metrics, shown),
        page.side_by_side(page.figure(chart, "Bytes by round, of all clients together."), _seconds_table(run)),
    )


def _round_bytes(num_bytes: float) -> str:
    return format_bytes(num_bytes).replace(".0 ", " ")


def seconds_by_verb(run: RecordedRun) -> dict[str, float]:
    """Add up the seconds of each verb over all rounds; ``round`` is the time by the clock."""
    seconds: dict[str, float] = {}
    for line in run.metrics:
        for verb, duration in line["seconds"].items():
            seconds[verb] = seconds.get(verb, 0.0) + duration
    return seconds


def _seconds_table(run: RecordedRun) -> Html:
    seconds = seconds_by_verb(run)
    wall = seconds.pop("round", None)
    total = sum(seconds.values())
    order = sorted(seconds, key=lambda verb: VERBS.index(verb) if verb in VERBS else len(VERBS))
    rows = [
        [
            Cell(verb),
            Cell(f"{seconds[verb]:.2f}", seconds[verb]),
            Cell(f"{100 * seconds[verb] / total:.1f}" if total else UNKNOWN, seconds[verb]),
        ]
        for verb in order
    ]
    footer = [] if wall is None else [[Cell("rounds, by the clock"), Cell(f"{wall:.2f}", wall), Cell("")]]
    columns = [Column("verb"), Column("seconds", is_number=True), Column("% of the verbs", is_number=True)]
    return page.table("Seconds by verb, all rounds and clients together", columns, rows, footer)


def left_out(run: RecordedRun) -> Html:
    """List the clients whose reply was not used, if any."""
    clients: dict[tuple[int, str, str], list[int]] = {}
    for line in run.metrics:
        for one in line["left_out"]:
            clients.setdefault((line["round"], one["phase"], one["reason"]), []).append(one["client_id"])
    if not clients:
        return page.NOTHING
    rows = [
        [number_cell(round), Cell(phase), Cell(reason), number_cell(len(ids)), Cell(_name_clients(ids))]
        for (round, phase, reason), ids in [*clients.items()][:MOST_LEFT_OUT]
    ]
    caption = "Clients whose reply was not used, by round, phase and reason."
    if len(clients) > len(rows):
        caption += f" These are the first {len(rows)} of {len(clients)} lines; metrics.jsonl has all."
    columns = [Column("round", True), Column("phase"), Column("reason"), Column("number", True), Column("clients")]
    return page.table(caption, columns, rows)


def _name_clients(ids: Sequence[int]) -> str:
    named = ", ".join(map(str, ids[:MOST_CLIENTS_NAMED]))
    return named if len(ids) <= MOST_CLIENTS_NAMED else f"{named} and {len(ids) - MOST_CLIENTS_NAMED} more"
