from dataclasses import replace

import pytest

from fedfuse.audit.audit import Finding
from fedfuse.audit.reduction import reduction

PLAIN = Finding("canary", "server model", "exposure in bits", 5.0, 4.0, 6.0, 1.0, 9.0, True)


def findings(*values, floor=1.0):
    return [replace(PLAIN, value=value, floor=floor) for value in values]


@pytest.mark.parametrize(("value", "per_cent"), [(1.0, 100), (2.0, 75), (5.0, 0), (6.0, -25)])
def test_all_above_the_floor_is_a_hundred_per_cent(value, per_cent):
    assert reduction(findings(value), findings(5.0)) == pytest.approx(per_cent)


def test_seeds_are_averaged_first():
    assert reduction(findings(1.0, 3.0), findings(3.0, 7.0)) == pytest.approx(75)


def test_each_side_has_a_floor_of_its_own():
    assert reduction(findings(2.0, floor=2.0), findings(5.0)) == pytest.approx(100)


def test_without_the_floor_it_is_of_the_whole_exposure():
    assert reduction(findings(1.0), findings(5.0), above_floor=False) == pytest.approx(80)


def test_where_nothing_leaks_nothing_can_be_lowered():
    assert reduction(findings(1.0), findings(1.0)) is None
    assert reduction(findings(0.5), findings(0.9), above_floor=False) is None


@pytest.mark.parametrize(
    ("protected", "plain"),
    [
        ([], []),
        (findings(1.0), findings(5.0, 5.0)),
        ([replace(PLAIN, subject="owner's model")], [PLAIN]),
        ([replace(PLAIN, measure="AUC")], [PLAIN]),
        ([replace(PLAIN, audit="membership")], [PLAIN]),
    ],
)
def test_only_the_same_findings_are_compared(protected, plain):
    with pytest.raises(ValueError, match="a reduction is of one finding"):
        reduction(protected, plain)
