"""The file in a run's directory that holds what attacks found."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from fedfuse.audit.audit import Finding
from fedfuse.results import write_text

AUDITS_FILE = "audits.json"


def write_findings(directory: Path, findings: Sequence[Finding]) -> None:
    """Write ``audits.json``, as a whole."""
    plain = [{**asdict(finding), "verdict": finding.verdict} for finding in findings]
    write_text(directory, AUDITS_FILE, json.dumps({"findings": plain}, indent=2, allow_nan=False) + "\n")


def read_findings(directory: Path) -> list[Finding] | None:
    """Read ``audits.json``; None where there is none, because the run was not attacked or is not over."""
    path = directory / AUDITS_FILE
    if not path.exists():
        return None
    plain = json.loads(path.read_text(encoding="utf-8"))["findings"]
    return [Finding(**{name: value for name, value in one.items() if name != "verdict"}) for one in plain]
