"""The building blocks of a report: a page of HTML in one file, which needs nothing from outside.

Blocks are functions that take plain values and return `Html`. Text is escaped where it becomes `Html`, so that a name
can hold any characters. The look is in ``style.py``, what moves in ``script.py``.
"""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal, NewType

from fedfuse.report.script import SCRIPT
from fedfuse.report.style import STYLE

Html = NewType("Html", str)
"""Markup that is safe to put into a page; made by the functions of this module only."""

NOTHING = Html("")


@dataclass(frozen=True)
class Section:
    """A part of a page, under a heading of its own.

    Parameters
    ----------
    title : str
        The heading.
    body : Html
        The blocks below it, see `join`.
    """

    title: str
    body: Html


@dataclass(frozen=True)
class KeyNumber:
    """A number that a reader should see first.

    Parameters
    ----------
    label : str
        What it is.
    value : str
        The number as it is shown, with its unit.
    detail : str
        One line below it, if any.
    """

    label: str
    value: str
    detail: str = ""


@dataclass(frozen=True)
class Column:
    """A column of a table; numbers are set to the right and sorted by size, unknown ones always last."""

    name: str
    is_number: bool = False


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Parameters
    ----------
    text : str
        What is shown.
    value : float, optional
        What a column of numbers is sorted by. None is unknown.
    tone : {"", "good", "bad"}
        Whether the text is coloured as a gain or as a loss.
    link : str
        The relative address that the text leads to, if any.
    """

    text: str
    value: float | None = None
    tone: Literal["", "good", "bad"] = ""
    link: str = ""


def page(title: str, lead: str, sections: Sequence[Section]) -> str:
    """Make the text of a whole file of HTML.

    Parameters
    ----------
    title : str
        The heading of the page.
    lead : str
        One or two sentences below it.
    sections : sequence of Section
        In the order of reading; a list of links to them stands before the first.
    """
    # Nothing may be loaded, and of what stands in the page only this style and this script count.
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_fingerprint(STYLE)}'; script-src '{_fingerprint(SCRIPT)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    links = "".join(
        f'<li><a href="#section-{number}">{text(section.title)}</a></li>'
        for number, section in enumerate(sections, start=1)
    )
    bodies = "\n".join(
        f'<section id="section-{number}" aria-labelledby="heading-{number}">\n'
        f'<h2 id="heading-{number}">{text(section.title)}</h2>\n{section.body}\n</section>'
        for number, section in enumerate(sections, start=1)
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f'<header>\n<h1>{text(title)}</h1>\n<p class="lead">{text(lead)}</p>\n'
        f'<nav aria-label="Sections"><ul>{links}</ul></nav>\n</header>\n<main>\n{bodies}\n</main>\n'
        f'<div id="note" role="status" hidden></div>\n<script>{SCRIPT}</script>\n</body>\n</html>\n'
    )


def text(words: object) -> Html:
    """Escape a text, so that it is shown as it is, also inside an attribute in double quotes."""
    # What is not a character, such as half of a surrogate pair, could not be written to a file.
    return Html(escape(str(words).encode("utf-8", "replace").decode("utf-8")))


def join(*blocks: Html) -> Html:
    """Put blocks one below the other."""
    return Html("\n".join(blocks))


def paragraph(words: str) -> Html:
    """Make a paragraph of plain text."""
    return Html(f"<p>{text(words)}</p>")


def heading(words: str) -> Html:
    """Make a heading inside a section."""
    return Html(f"<h3>{text(words)}</h3>")


def key_numbers(numbers: Sequence[KeyNumber]) -> Html:
    """Set numbers large and side by side."""
    items = "".join(
        f'<div><dt>{text(number.label)}</dt><dd class="number">{text(number.value)}</dd>'
        + (f"<dd>{text(number.detail)}</dd>" if number.detail else "")
        + "</div>"
        for number in numbers
    )
    return Html(f'<dl class="key-numbers">{items}</dl>')


def facts(pairs: Sequence[tuple[str, str]]) -> Html:
    """List names, each with what belongs to it."""
    items = "".join(f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in pairs)
    return Html(f'<dl class="facts">{items}</dl>')


def table(
    caption: str,
    columns: Sequence[Column],
    rows: Sequence[Sequence[Cell]],
    footer: Sequence[Sequence[Cell]] = (),
    sortable: bool = True,
) -> Html:
    """Make a table that a click on a header sorts, up and then down, and that scrolls in a box of its own.

    Parameters
    ----------
    caption : str
        What the table shows; also its name for those who do not see it.
    columns : sequence of Column
        From left to right.
    rows : sequence of sequence of Cell
        A cell for each column.
    footer : sequence of sequence of Cell
        Rows that stay at the bottom.
    sortable : bool
        Whether the headers can be clicked.
    """
    headers = "".join(_header(column, sortable) for column in columns)
    body = "".join(_row(columns, row) for row in rows)
    foot = f"<tfoot>{''.join(_row(columns, row) for row in footer)}</tfoot>" if footer else ""
    kind = ' class="sortable"' if sortable else ""
    return captioned(
        caption, Html(f"<table{kind}><thead><tr>{headers}</tr></thead>\n<tbody>{body}</tbody>{foot}</table>")
    )


def captioned(caption: str, wide: Html) -> Html:
    """Put what may be wider than the page, such as a table, into a box that scrolls, below its caption."""
    return Html(
        f'<figure class="wide"><figcaption>{text(caption)}</figcaption>'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(caption)}">{wide}</div></figure>'
    )


def details(summary: str, body: Html, is_open: bool = False) -> Html:
    """Make a block that unfolds with a click."""
    return Html(f"<details{' open' if is_open else ''}><summary>{text(summary)}</summary>\n{body}\n</details>")


def code(lines: str) -> Html:
    """Set text as it is, in letters of equal width: a command, or a file."""
    return Html(f'<pre tabindex="0"><code>{text(lines)}</code></pre>')


def figure(content: Html, caption: str = "") -> Html:
    """Set a picture, with its caption below if it has one."""
    words = f"<figcaption>{text(caption)}</figcaption>" if caption else ""
    return Html(f"<figure>{content}{words}</figure>")


def side_by_side(*blocks: Html) -> Html:
    """Put blocks beside each other where there is room, else one below the other."""
    return Html(f'<div class="side-by-side">{"".join(f"<div>{block}</div>" for block in blocks)}</div>')


def png(content: bytes, description: str) -> Html:
    """Embed a picture.

    Parameters
    ----------
    content : bytes
        The file, a PNG.
    description : str
        What it shows, for those who do not see it.
    """
    data = base64.b64encode(content).decode("ascii")
    return Html(f'<img alt="{text(description)}" src="data:image/png;base64,{data}">')


def _header(column: Column, sortable: bool) -> str:
    kind = ' class="number"' if column.is_number else ""
    if not sortable:
        return f'<th scope="col"{kind}>{text(column.name)}</th>'
    return f'<th scope="col"{kind} aria-sort="none"><button type="button">{text(column.name)}</button></th>'


def _row(columns: Sequence[Column], cells: Sequence[Cell]) -> str:
    return f"<tr>{''.join(_cell(column, cell) for column, cell in zip(columns, cells, strict=True))}</tr>\n"


def _cell(column: Column, cell: Cell) -> str:
    kinds = [*(["number"] if column.is_number else []), *([cell.tone] if cell.tone else [])]
    attributes = f' class="{" ".join(kinds)}"' if kinds else ""
    if cell.value is not None:
        attributes += f' data-value="{cell.value:.9g}"'
    words = text(cell.text)
    if cell.link:
        words = Html(f'<a href="{text(cell.link)}">{words}</a>')
    return f"<td{attributes}>{words}</td>"


def _fingerprint(content: str) -> str:
    digest = base64.b64encode(hashlib.sha256(content.encode("utf-8")).digest()).decode("ascii")
    return f"sha256-{digest}"
