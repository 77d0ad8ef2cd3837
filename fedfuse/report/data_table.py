"""The tables of ``fedfuse data describe``: the classes of a data source, who has how much, and how clients differ."""

from collections.abc import Iterator, Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedfuse.data.description import Description, Range
from fedfuse.report.numbers import count
from fedfuse.report.table import ASCII_RULES, format_percent

MOST_ROWS = 20


def print_description(console: Console, name: str, description: Description) -> None:
    """Print the tables of a data source of some name, and the lines between and below them."""
    shape = " x ".join(map(str, description.shape))
    _line(console, f"Data {name}: {count(description.num_samples, 'sample')} of {shape}, {description.dtype}")
    if description.natural_clients is not None:
        sizes = _in_words(description.natural_clients, 0)
        _line(console, f"{count(description.num_natural_clients or 0, 'natural client')} with {sizes} samples")
    _line(console, "")
    console.print(_class_table(description))
    if description.domains is not None:
        _line(console, "")
        console.print(_domain_table(description.domains))
    _line(console, "")
    console.print(_set_table(description))
    _line(console, "")
    console.print(_client_table(description))
    _line(console, "")
    for line in _remarks(description):
        _line(console, line)


def _class_table(description: Description) -> Table:
    """Make the table of classes: of more than 20 only the 10 most and the 10 least frequent ones."""
    held = description.label_counts.sum(axis=0)
    holders = (description.label_counts > 0).sum(axis=0)
    rows = [
        (name, number, int(held[label]), int(holders[label]))
        for label, (name, number) in enumerate(description.classes.items())
    ]
    title = f"{len(rows)} classes"
    left_out = len(rows) - MOST_ROWS
    if left_out > 0:
        rows.sort(key=lambda row: -row[1])
        title += f", the {MOST_ROWS // 2} most and the {MOST_ROWS // 2} least frequent ones"
        rows = rows[: MOST_ROWS // 2] + rows[-MOST_ROWS // 2 :]
    table = _table(title, "class", "samples", "in per cent", "held by clients", "clients")
    for index, (name, number, by_clients, num_holders) in enumerate(rows):
        if left_out > 0 and index == MOST_ROWS // 2:
            table.add_row(f"{left_out} more classes", *["..."] * 4)
        share = format_percent(number / description.num_samples)
        table.add_row(Text(name), str(number), share, str(by_clients), str(num_holders))
    return table


def _domain_table(domains: Mapping[str, int]) -> Table:
    table = _table(f"{len(domains)} domains", "domain", "samples", "in per cent")
    for name, number in domains.items():
        table.add_row(Text(name), str(number), format_percent(number / sum(domains.values())))
    return table


def _set_table(description: Description) -> Table:
    table = _table("Who has them", "set", "samples")
    origin = "" if description.transfer_from_source else ", from elsewhere"
    table.add_row(f"transfer set{origin}", str(description.num_transfer))
    table.add_row("global test set", str(description.num_global_test))
    table.add_row(count(len(description.label_counts), "client"), str(description.num_client_samples))
    if description.num_left_out:
        table.add_row("left out by split.samples", str(description.num_left_out))
    table.add_row("unused", str(description.num_unused))
    return table


def _client_table(description: Description) -> Table:
    table = _table("How clients differ", "of a client", "min", "median", "max")
    for name, values, decimals in (
        ("samples", description.client_sizes, 0),
        ("classes", description.classes_per_client, 0),
        ("entropy of its label mix (bits)", description.label_entropy, 2),
    ):
        table.add_row(name, *(_number(value, decimals) for value in (values.min, values.median, values.max)))
    return table


def _remarks(description: Description) -> Iterator[str]:
    if description.divergence is not None:
        compared = description.num_clients_compared
        of = "all clients"
        if compared < len(description.label_counts):
            of = f"{compared} clients drawn at random"
        yield (
            f"Two clients differ by {description.divergence:.3f} bits on average over the pairs of {of}"
            " (Jensen-Shannon divergence of label mixes: 0 alike, 1 no class in common)"
        )
    if description.classes_of_nobody:
        yield f"Classes that no client has: {', '.join(description.classes_of_nobody)}"
    if description.neighbours_apart is not None:
        yield f"Neighbours in time held by different clients: {description.neighbours_apart}"


def _table(title: str, *columns: str) -> Table:
    table = Table(
        box=ASCII_RULES,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        title=title,
        title_justify="left",
        title_style="bold",
    )
    table.add_column(columns[0], overflow="fold")
    for column in columns[1:]:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _in_words(values: Range, decimals: int) -> str:
    low, middle, high = (_number(value, decimals) for value in (values.min, values.median, values.max))
    return f"{low} to {high} (median {middle})"


def _number(value: float, decimals: int) -> str:
    """Show a number; where it is to be whole and is a median between two, with its half."""
    return f"{value:.{decimals}f}" if decimals or value.is_integer() else f"{value:.1f}"


def _line(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
