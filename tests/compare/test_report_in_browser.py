"""The report of a comparison, in a real browser."""

import pytest

from fedfuse.compare.plan import open_directory
from fedfuse.compare.report import write_report

By = pytest.importorskip("selenium.webdriver.common.by").By


@pytest.fixture
def opened(browser, make_plan, write_rounds, tmp_path):
    plan = make_plan()
    open_directory(plan, tmp_path)
    for number, run in enumerate(plan.runs):
        write_rounds(tmp_path, run, accuracy=0.3 + 0.1 * number)
    browser.get(write_report(tmp_path).as_uri())
    return browser


def column(browser, number):
    table = browser.find_element(By.CSS_SELECTOR, "section table")
    rows = table.find_elements(By.CSS_SELECTOR, "tbody tr")
    return [row.find_elements(By.TAG_NAME, "td")[number].text for row in rows]


def test_nothing_goes_wrong_when_it_opens(opened):
    assert opened.get_log("browser") == []
    assert opened.title == "Comparison"
    assert opened.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")


def test_a_click_on_a_header_sorts_the_methods_up_and_then_down(opened):
    before = column(opened, 2)
    header = opened.find_elements(By.CSS_SELECTOR, "section table thead th")[2]
    assert header.text.split()[:2] == ["own", "test"]
    numbers = [float(text.split()[0]) for text in before]
    assert len(set(numbers)) > 1
    header.find_element(By.TAG_NAME, "button").click()
    assert [float(text.split()[0]) for text in column(opened, 2)] == sorted(numbers)
    header.find_element(By.TAG_NAME, "button").click()
    assert [float(text.split()[0]) for text in column(opened, 2)] == sorted(numbers, reverse=True)


def test_the_figure_is_in_the_page(opened):
    image = opened.find_element(By.TAG_NAME, "img")
    assert image.get_attribute("src").startswith("data:image/png;base64,")
    assert opened.execute_script("return arguments[0].naturalWidth", image) > 300
    assert image.get_attribute("alt")
