import re
from dataclasses import replace

from fedfuse.audit.audit import Finding
from fedfuse.audit.record import write_findings
from fedfuse.report.audits import findings_table
from fedfuse.report.html import write_report
from fedfuse.report.recorded_run import read_run

LEAK = Finding("canary", "server model", "exposure in bits", 5.5, 5.0, 6.0, 1.4, 9.97, True)


def rows_of(text):
    return [re.findall(r"<td[^>]*>([^<]*)</td>", row) for row in re.split(r"<tr>", text)[2:]]


def test_every_finding_has_a_row_and_only_a_leak_is_marked(make_run):
    directory = make_run()
    silent = replace(LEAK, low=1.0)
    write_findings(directory, [LEAK, silent, replace(LEAK, has_power=False)])
    text = findings_table(read_run(directory))
    start = ["canary", "server model", "exposure in bits", "5.50"]
    assert rows_of(text) == [
        [*start, "5.00 to 6.00", "1.40", "9.97", "leaks"],
        [*start, "1.00 to 6.00", "1.40", "9.97", "no leak found"],
        [*start, "5.00 to 6.00", "1.40", "9.97", "no power"],
    ]
    assert re.findall(r'class="bad">([^<]*)<', text) == ["leaks"]
    assert "the accuracies are not those of a run without them" in text


def test_the_report_has_the_section_where_there_were_attacks(make_run):
    directory = make_run()
    assert "What attacks found" not in write_report(directory).read_text()
    write_findings(directory, [LEAK])
    assert ">What attacks found</h2>" in write_report(directory).read_text()


def test_a_run_with_attacks_is_not_offered_to_be_continued(make_run):
    for overrides, is_offered in (([], True), (["audit=[canary]"], False)):
        directory = make_run(overrides=overrides)
        (directory / "checkpoint").mkdir(exist_ok=True)
        assert ("To go on where it stopped" in write_report(directory).read_text()) is is_offered
