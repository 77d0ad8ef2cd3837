import json

from fedfuse.audit.audit import Finding
from fedfuse.audit.record import read_findings, write_findings

FINDINGS = [
    Finding("canary", "server model", "exposure in bits", 5.5, 5.0, 6.0, 1.4, 9.0, True),
    Finding("canary", "soft labels sent", "exposure in bits", 2.0, 1.0, 3.0, 1.4, 1.5, False),
]


def test_findings_are_read_back_as_they_were_written(tmp_path):
    write_findings(tmp_path, FINDINGS)
    assert read_findings(tmp_path) == FINDINGS
    written = json.loads((tmp_path / "audits.json").read_text())["findings"]
    assert [one["verdict"] for one in written] == ["leaks", "no power"]
    assert [path.name for path in tmp_path.iterdir()] == ["audits.json"]


def test_a_run_that_was_not_attacked_has_none(tmp_path):
    assert read_findings(tmp_path) is None
