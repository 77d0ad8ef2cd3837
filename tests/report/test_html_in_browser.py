"""The report of a real run, in a real browser."""

import io
from contextlib import redirect_stdout

import pytest

from fedfuse.composition import compose
from fedfuse.report.html import write_report
from fedfuse.report.table import format_gain, format_percent
from fedfuse.results import read_latest_relevance, read_metrics
from fedfuse.simulate import simulate
from fedfuse.summary import read_summary

By = pytest.importorskip("selenium.webdriver.common.by").By

HEADERS = ["client", "examples", "model", "local only", "federated", "gain", "global test"]


@pytest.fixture(scope="session")
def directory(tmp_path_factory):
    """The directory of a small run."""
    directory = tmp_path_factory.mktemp("outputs") / "run"
    overrides = ["num_clients=5", "num_rounds=3", "learn.epochs=1", "absorb.epochs=1", "model=[mlp_small,cnn_small]"]
    with redirect_stdout(io.StringIO()):
        simulate(compose([*overrides, "engine.runner=sequential"]), directory)
    return directory


@pytest.fixture
def browser_with_report(browser, directory):
    browser.get(write_report(directory).as_uri())
    return browser


def set_width(browser, width):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    )


def set_scheme(browser, scheme):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def section(browser, title):
    return browser.find_element(By.XPATH, f"//section[h2='{title}']")


def clients_column(browser, header):
    rows = section(browser, "Clients").find_elements(By.CSS_SELECTOR, "tbody tr")
    return [row.find_elements(By.TAG_NAME, "td")[HEADERS.index(header)].text for row in rows]


def test_nothing_goes_wrong_when_the_report_opens(browser_with_report):
    assert browser_with_report.get_log("browser") == []
    assert browser_with_report.title == "knfu on digits"


def test_the_clients_are_those_of_the_summary(browser_with_report, directory):
    clients = read_summary(directory)["clients"]
    assert clients_column(browser_with_report, "client") == [str(client["client_id"]) for client in clients]
    assert clients_column(browser_with_report, "model") == [client["model"] for client in clients]
    shown = [format_percent(client["personal_accuracy"]) for client in clients]
    assert clients_column(browser_with_report, "federated") == shown
    gains = [format_gain(client["gain"]).replace("-", "\N{MINUS SIGN}") for client in clients]
    assert clients_column(browser_with_report, "gain") == gains


@pytest.mark.parametrize("header", ["examples", "local only", "federated", "gain", "global test"])
def test_a_click_on_a_header_sorts_the_clients_up_and_then_down(browser_with_report, header):
    (button,) = [
        button
        for button in section(browser_with_report, "Clients").find_elements(By.CSS_SELECTOR, "th button")
        if button.text == header
    ]

    def values():
        return [float(text.replace("\N{MINUS SIGN}", "-")) for text in clients_column(browser_with_report, header)]

    before = values()
    button.click()
    assert values() == sorted(before)
    assert button.find_element(By.XPATH, "..").get_attribute("aria-sort") == "ascending"
    button.click()
    assert values() == sorted(before, reverse=True)
    assert button.find_element(By.XPATH, "..").get_attribute("aria-sort") == "descending"


def test_a_cell_of_the_matrix_is_read_out_under_the_pointer(browser_with_report, directory, point_at):
    round, relevance, client_ids = read_latest_relevance(directory)
    cells = section(browser_with_report, "Who listened to whom").find_elements(By.CSS_SELECTOR, "tbody td")
    point_at(cells[3 * 5 + 1])
    expected = f"In round {round}, client {client_ids[3]} listened to client {client_ids[1]} with weight "
    assert browser_with_report.find_element(By.ID, "note").text == f"{expected}{relevance[3, 1]:.3f}"


def test_a_round_of_a_curve_shows_its_numbers_under_the_pointer(browser_with_report, directory, point_at):
    line = read_metrics(directory)[1]
    chart = section(browser_with_report, "Accuracy by round").find_element(By.CSS_SELECTOR, "svg.chart")
    _, strip, _ = chart.find_elements(By.CSS_SELECTOR, "g[data-note]")
    point_at(strip.find_element(By.TAG_NAME, "rect"))
    words = browser_with_report.find_element(By.ID, "note").text.splitlines()
    assert words[:2] == ["round 2, own test data", f"mean: {format_percent(line['personal_mean'])} %"]
    rule = strip.find_element(By.TAG_NAME, "line")
    assert rule.value_of_css_property("visibility") == "visible"


@pytest.mark.parametrize("width", [400, 1400])
def test_nothing_is_wider_than_the_page(browser_with_report, width):
    set_width(browser_with_report, width)
    for details in browser_with_report.find_elements(By.TAG_NAME, "summary"):
        details.click()
    try:
        inner, outer, window = browser_with_report.execute_script(
            "const page = document.documentElement; return [page.scrollWidth, page.clientWidth, window.innerWidth]"
        )
        assert window == width
        assert inner == outer
        table = section(browser_with_report, "Clients").find_element(By.CSS_SELECTOR, ".scroll")
        inner, outer = (
            browser_with_report.execute_script(f"return arguments[0].{name}", table)
            for name in ("scrollWidth", "clientWidth")
        )
        assert (inner > outer) == (width == 400)  # the table scrolls in its own box
    finally:
        browser_with_report.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_page_is_dark_where_the_reader_wants_it(browser_with_report):
    def colours():
        names = ("background-color", "color")
        return [browser_with_report.find_element(By.TAG_NAME, "html").value_of_css_property(name) for name in names]

    try:
        set_scheme(browser_with_report, "light")
        assert colours() == ["rgba(255, 255, 255, 1)", "rgba(28, 33, 38, 1)"]
        set_scheme(browser_with_report, "dark")
        assert colours() == ["rgba(20, 24, 28, 1)", "rgba(228, 232, 236, 1)"]
    finally:
        browser_with_report.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_paper_is_light_and_shows_tables_in_full(browser_with_report):
    try:
        features = [{"name": "prefers-color-scheme", "value": "dark"}]
        browser_with_report.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": features})
        html = browser_with_report.find_element(By.TAG_NAME, "html")
        assert html.value_of_css_property("background-color") == "rgba(255, 255, 255, 1)"
        lightest = "return getComputedStyle(document.documentElement).getPropertyValue('--shade-0')"
        assert browser_with_report.execute_script(lightest) == "#f7fbff"
        box = section(browser_with_report, "Clients").find_element(By.CSS_SELECTOR, ".scroll")
        assert box.value_of_css_property("max-height") == "none"
    finally:
        browser_with_report.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})


def test_every_figure_and_button_has_a_name(browser_with_report):
    nodes = browser_with_report.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    roles = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]]
    named = [(role, name) for role, name in roles if role in ("image", "img", "button", "region", "link", "table")]
    assert {role for role, _ in named} >= {"button", "region", "link"}
    assert [role for role, name in named if not name and role != "table"] == []
