import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest

from fedfuse.report import page
from fedfuse.report.page import Cell, Column, KeyNumber, Section

NASTY = "</script><script>alert('1')</script>\"&<b>"


class Elements(HTMLParser):
    """All elements of a text, each with its attributes, and the text outside style and script."""

    def __init__(self, markup):
        super().__init__()
        self.found, self.text, self.open = [], "", []
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data

    def of(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


def test_a_page_has_its_title_its_sections_and_links_to_them():
    elements = Elements(
        page.page("A title", "The lead.", [Section("One", page.paragraph("1st")), Section("Two", page.NOTHING)])
    )
    assert [link["href"] for link in elements.of("a")] == ["#section-1", "#section-2"]
    assert [section["id"] for section in elements.of("section")] == ["section-1", "section-2"]
    assert elements.of("html") == [{"lang": "en"}]
    assert len(elements.of("h1")) == 1
    assert len(elements.of("h2")) == 2
    for words in ("A title", "The lead.", "One", "1st", "Two"):
        assert words in elements.text


def test_the_policy_of_a_page_lets_only_its_own_style_and_script_count():
    text = page.page("A title", "", [])
    (policy,) = [meta["content"] for meta in Elements(text).of("meta") if meta.get("http-equiv")]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["img-src"] == "data:"
    for tag in ("style", "script"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules[f"{tag}-src"] == f"'sha256-{digest}'"


def test_a_page_names_nothing_outside_of_it():
    blocks = page.join(
        page.png(b"content", "a picture"), page.table("caption", [Column("a")], [[Cell("b", link="runs/b")]])
    )
    text = page.page("A title", "", [Section("One", blocks)])
    assert not re.search(r"(src|href|url)\s*[=(]\s*[\"']?(https?:)?//", text)
    assert "@import" not in text


@pytest.mark.parametrize(
    "block",
    [
        page.text(NASTY),
        page.paragraph(NASTY),
        page.heading(NASTY),
        page.code(NASTY),
        page.key_numbers([KeyNumber(NASTY, NASTY, NASTY)]),
        page.facts([(NASTY, NASTY)]),
        page.details(NASTY, page.paragraph(NASTY)),
        page.figure(page.png(b"", NASTY), NASTY),
        page.table(NASTY, [Column(NASTY)], [[Cell(NASTY, link=NASTY)]], [[Cell(NASTY)]]),
        page.captioned(NASTY, page.text(NASTY)),
    ],
)
def test_every_block_shows_a_nasty_text_as_it_is(block):
    assert "<script" not in block
    elements = Elements(f"<div>{block}</div>")
    assert NASTY in elements.text
    assert not elements.of("b")
    for _, attributes in elements.found:
        assert set(attributes) <= {
            "class",
            "aria-label",
            "aria-sort",
            "alt",
            "src",
            "href",
            "scope",
            "type",
            "tabindex",
            "role",
        }


def test_half_a_surrogate_pair_does_not_keep_a_page_from_being_written():
    assert page.paragraph("a \ud800 b").encode() == b"<p>a ? b</p>"


def test_a_nasty_title_is_shown_as_it_is():
    elements = Elements(page.page(NASTY, NASTY, [Section(NASTY, page.NOTHING)]))
    assert elements.text.count(NASTY) == 5  # title, heading, lead, link and section
    assert len(elements.of("script")) == 1


def test_key_numbers_leave_out_an_empty_detail():
    assert page.key_numbers([KeyNumber("Sent", "5 MB")]).count("<dd") == 1
    assert page.key_numbers([KeyNumber("Sent", "5 MB", "3 up")]).count("<dd") == 2


def test_a_table_tells_how_it_is_sorted_and_by_what():
    rows = [[Cell("knfu"), Cell("94.2", 0.94188)], [Cell("local"), Cell("-")]]
    text = page.table("Accuracy", [Column("method"), Column("own", is_number=True)], rows, [[Cell("mean"), Cell("1")]])
    elements = Elements(text)
    assert [header["aria-sort"] for header in elements.of("th")] == ["none", "none"]
    assert len(elements.of("button")) == 2
    assert [cell.get("data-value") for cell in elements.of("td")] == [None, "0.94188", None, None, None, None]
    assert [cell.get("class") for cell in elements.of("td")] == [None, "number"] * 3
    assert text.index("<tfoot>") > text.index("local")
    assert elements.of("div") == [{"class": "scroll", "tabindex": "0", "role": "region", "aria-label": "Accuracy"}]


def test_a_table_that_is_not_sortable_has_no_buttons():
    elements = Elements(page.table("Accuracy", [Column("method")], [[Cell("knfu")]], sortable=False))
    assert not elements.of("button")
    assert elements.of("table") == [{}]
    assert elements.of("th") == [{"scope": "col"}]


def test_a_row_must_have_a_cell_for_each_column():
    with pytest.raises(ValueError, match="zip"):
        page.table("Accuracy", [Column("a"), Column("b")], [[Cell("1")]])


def test_cells_have_their_tone_and_their_link():
    columns = [Column("run"), Column("gain", is_number=True)]
    elements = Elements(page.table("Gains", columns, [[Cell("a run", link="runs/a"), Cell("-1", -1, "bad")]]))
    assert elements.of("a") == [{"href": "runs/a"}]
    assert elements.of("td")[1] == {"class": "number bad", "data-value": "-1"}


def test_details_are_closed_unless_asked():
    assert Elements(page.details("More", page.NOTHING)).of("details") == [{}]
    assert Elements(page.details("More", page.NOTHING, is_open=True)).of("details") == [{"open": None}]


def test_a_picture_is_in_the_page_itself_and_has_a_text_alternative():
    (image,) = Elements(page.png(b"\x89PNG", "two lines")).of("img")
    assert image["alt"] == "two lines"
    assert base64.b64decode(image["src"].removeprefix("data:image/png;base64,")) == b"\x89PNG"


def test_a_figure_may_have_no_caption():
    assert "figcaption" not in page.figure(page.NOTHING)
    assert "<figcaption>below</figcaption>" in page.figure(page.NOTHING, "below")


def test_blocks_are_joined_in_their_order():
    assert page.join(page.text("a"), page.text("b")) == "a\nb"
    assert page.side_by_side(page.text("a"), page.text("b")).count("<div>") == 2
