"""What moves in a page, in a real browser."""

import numpy as np
import pytest

from fedfuse.report import page
from fedfuse.report.chart import heat_map
from fedfuse.report.page import Cell, Column, Section

By = pytest.importorskip("selenium.webdriver.common.by").By
Keys = pytest.importorskip("selenium.webdriver").Keys


@pytest.fixture
def shown(browser, tmp_path):
    """Return a function that shows blocks on a page."""

    def show(*blocks):
        path = tmp_path / "page.html"
        path.write_text(page.page("A page", "", [Section("One", page.join(*blocks))]), encoding="utf-8")
        browser.get(path.as_uri())
        return browser

    return show


def column(browser, number):
    return [cell.text for cell in browser.find_elements(By.CSS_SELECTOR, f"tbody td:nth-child({number})")]


def sorting(browser):
    return [header.get_attribute("aria-sort") for header in browser.find_elements(By.TAG_NAME, "th")]


TABLE = page.table(
    "A table",
    [Column("name"), Column("value", is_number=True)],
    [
        [Cell("run 10"), Cell("-")],
        [Cell("run 9"), Cell("1.0", 1.04)],
        [Cell("-"), Cell("\N{MINUS SIGN}20.0", -20)],
        [Cell("Run 1"), Cell("1.0", 1.01)],
        [Cell("run 2"), Cell("100")],
    ],
    [[Cell("mean"), Cell("20")]],
)


def test_numbers_are_sorted_by_all_their_digits_and_the_unknown_are_last_both_ways(shown):
    browser = shown(TABLE)
    _, value = browser.find_elements(By.CSS_SELECTOR, "th button")
    value.click()
    ascending = ["-", "Run 1", "run 9", "run 2", "run 10"]
    assert column(browser, 1) == ascending
    assert sorting(browser) == ["none", "ascending"]
    value.click()
    assert column(browser, 1) == ["run 2", "run 9", "Run 1", "-", "run 10"]
    assert sorting(browser) == ["none", "descending"]
    value.click()
    assert column(browser, 1) == ascending
    assert browser.find_element(By.CSS_SELECTOR, "tfoot td").text == "mean"


def test_names_are_sorted_as_people_count_and_another_header_starts_anew(shown):
    browser = shown(TABLE)
    name, value = browser.find_elements(By.CSS_SELECTOR, "th button")
    value.click()
    name.click()
    assert column(browser, 1) == ["Run 1", "run 2", "run 9", "run 10", "-"]
    assert sorting(browser) == ["ascending", "none"]


def test_the_keyboard_sorts_too(shown):
    browser = shown(TABLE)
    name, _ = browser.find_elements(By.CSS_SELECTOR, "th button")
    name.send_keys(Keys.ENTER)
    assert sorting(browser) == ["ascending", "none"]
    name.send_keys(Keys.SPACE)
    assert sorting(browser) == ["descending", "none"]
    assert browser.switch_to.active_element == name


def test_a_note_says_what_is_under_the_pointer_and_goes_with_it(shown, point_at):
    matrix = heat_map(
        "A matrix", ["<b>7", "9"], np.array([[0.25, 0.75], [0.5, 0.5]]), "row", "{row} to {column}: {value}"
    )
    browser = shown(matrix, TABLE)
    note = browser.find_element(By.ID, "note")
    assert not note.is_displayed()
    cells = browser.find_elements(By.CSS_SELECTOR, ".matrix tbody td")
    point_at(cells[1])
    assert note.text == "<b>7 to 9: 0.750"
    point_at(cells[2])
    assert note.text == "9 to <b>7: 0.500"
    browser.find_element(By.TAG_NAME, "body").send_keys(Keys.ESCAPE)
    assert not note.is_displayed()
    point_at(cells[0])
    assert note.is_displayed()
    point_at(browser.find_element(By.TAG_NAME, "h1"))
    assert not note.is_displayed()


def test_a_note_stays_inside_the_window(shown, point_at):
    corner = page.Html('<p id="corner" data-note="A note that is not short at all, for it has many words">here</p>')
    browser = shown(corner)
    browser.execute_script(
        "Object.assign(document.getElementById('corner').style,"
        "{ position: 'fixed', right: '0', bottom: '0', margin: '0', width: '20px', height: '20px' })"
    )
    point_at(browser.find_element(By.ID, "corner"))
    box = browser.execute_script("return document.getElementById('note').getBoundingClientRect().toJSON()")
    width, height = browser.execute_script("return [window.innerWidth, window.innerHeight]")
    assert box["width"] > 100
    assert 0 <= box["left"] < box["right"] <= width
    assert 0 <= box["top"] < box["bottom"] <= height


def test_what_a_page_did_not_bring_along_does_not_run(shown):
    injected = page.Html(
        '<img src="x" onerror="document.title = \'injected\'"><script>document.title = "injected"</script>'
    )
    browser = shown(injected)
    assert browser.title == "A page"
    assert any("Content Security Policy" in entry["message"] for entry in browser.get_log("browser"))
