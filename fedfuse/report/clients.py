"""The parts of a report on the clients: what each came to, and what data it has."""

from typing import Any

import numpy as np

from fedfuse.report import page
from fedfuse.report.chart import bubble_chart
from fedfuse.report.numbers import count, gain_cell, number_cell, percent_cell, statistic_of
from fedfuse.report.page import Cell, Column, Html
from fedfuse.report.recorded_run import RecordedRun
from fedfuse.report.table import SPREAD_ROWS, UNKNOWN

MOST_CLIENTS = 1000
MOST_CLIENTS_DRAWN = 60
MOST_CLASSES_DRAWN = 30


def client_table(run: RecordedRun) -> Html:
    """List the clients, with the spread over them; of very many only the worst and the best."""
    if not run.clients:
        return page.NOTHING
    columns = [
        Column("client", is_number=True),
        Column("examples", is_number=True),
        Column("model"),
        Column("local only", is_number=True),
        Column("federated", is_number=True),
        Column("gain", is_number=True),
        Column("global test", is_number=True),
    ]
    shown = run.clients
    caption = "Accuracy of each client on its own test data and on the global test data, in per cent."
    if len(run.clients) > MOST_CLIENTS:
        ranked, half = _worst_to_best(run.clients), MOST_CLIENTS // 2
        shown = ranked[:half] + ranked[-half:]
        caption += (
            f" These are the {half} worst and the {half} best of {len(run.clients)} clients on their own test data."
        )
    rows = [
        [
            number_cell(client["client_id"]),
            number_cell(client["num_examples"]),
            Cell(UNKNOWN if client["model"] is None else client["model"]),
            percent_cell(client["local_only_accuracy"]),
            percent_cell(client["personal_accuracy"]),
            gain_cell(client["gain"]),
            percent_cell(client["general_accuracy"]),
        ]
        for client in shown
    ]
    footer = []
    for label, statistic in SPREAD_ROWS.items():
        spreads = run.local_only["personal"], run.federated["personal"], run.federated["general"]
        before, after, general = (statistic_of(spread, statistic) for spread in spreads)
        gain = None if before is None or after is None or statistic == "std" else after - before
        names = [Cell(label), Cell(""), Cell("")]
        footer.append([*names, percent_cell(before), percent_cell(after), gain_cell(gain), percent_cell(general)])
    num_compared = sum(client["gain"] is not None for client in run.clients)
    blocks = [page.table(caption + " Click a header to sort.", columns, rows, footer)]
    if not run.is_finished:
        blocks.append(page.paragraph("The last rows are over the participants of the last round."))
    elif 0 < num_compared < len(run.clients):
        words = (
            f"The last rows are over the {count(num_compared, 'client')} evaluated both with and without federation."
        )
        blocks.append(page.paragraph(words))
    return page.join(*blocks)


def _worst_to_best(clients: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rank clients; those of unknown accuracy go to the middle, as neither worst nor best."""
    known = [client for client in clients if client["personal_accuracy"] is not None]
    unknown = [client for client in clients if client["personal_accuracy"] is None]
    known.sort(key=lambda client: client["personal_accuracy"])
    return known[: len(known) // 2] + unknown + known[len(known) // 2 :]


def label_counts(run: RecordedRun) -> Html:
    """Show how many training examples of each class each client has; of very many clients the totals."""
    counted = [client for client in run.clients if client["label_counts"] is not None]
    if not counted:
        return page.NOTHING
    counts = np.array([client["label_counts"] for client in counted]).T  # [classes, clients]
    names = run.class_names or [str(label) for label in range(len(counts))]
    if len(counted) <= MOST_CLIENTS_DRAWN and len(names) <= MOST_CLASSES_DRAWN:
        ids = [str(client["client_id"]) for client in counted]
        description = f"Training examples of each of {len(names)} classes at each of {len(ids)} clients, as bubbles."
        caption = f"The area of a bubble is the number of training examples of a class; the largest is {counts.max()}."
        return bubble_chart(caption, description, ids, names, counts, "client")
    columns = [
        Column("class"),
        *(Column(name, is_number=True) for name in ("examples", "clients that have it", "most at one client")),
    ]
    rows = [
        [Cell(name), number_cell(int(row.sum())), number_cell(int((row > 0).sum())), number_cell(int(row.max()))]
        for name, row in zip(names, counts, strict=True)
    ]
    sizes, classes = counts.sum(axis=0), (counts > 0).sum(axis=0)
    return page.join(
        page.paragraph(
            f"{len(counted)} clients and {len(names)} classes are too many to draw one by one. A client has "
            f"{sizes.min()} to {sizes.max()} training examples (median {np.median(sizes):g}), of {classes.min()} to "
            f"{classes.max()} classes (median {np.median(classes):g})."
        ),
        page.table("Training examples of each class over all clients", columns, rows),
    )
