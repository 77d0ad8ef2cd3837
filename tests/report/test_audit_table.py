import io

import pytest
from rich.console import Console

from fedfuse.audit.audit import Finding
from fedfuse.report.audit_table import EXPLANATION, format_number, print_findings

FINDINGS = [
    Finding("canary", "server model", "exposure in bits", 5.5, 5.0, 6.0, 1.4, 9.97, True),
    Finding("canary", "soft labels sent", "exposure in bits", 2.0, 0.5, 3.0, 1.4, 1.5, False),
]


def printed(findings):
    text = io.StringIO()
    print_findings(Console(file=text, width=120), findings)
    return text.getvalue().splitlines()


def test_each_finding_has_a_row_with_its_verdict():
    rows = [" ".join(line.split()) for line in printed(FINDINGS)]
    assert "audit attacked measure value 95 % floor control verdict" in rows
    assert "canary server model exposure in bits 5.50 5.00 to 6.00 1.40 9.97 leaks" in rows
    assert "canary soft labels sent exposure in bits 2.00 0.500 to 3.00 1.40 1.50 no power" in rows
    assert rows[-1] == EXPLANATION


@pytest.mark.parametrize(
    ("value", "shown"), [(0.01234, "0.012"), (-0.5, "-0.500"), (0.9999, "1.000"), (1.0, "1.00"), (9.966, "9.97")]
)
def test_small_numbers_have_a_decimal_more(value, shown):
    assert format_number(value) == shown
