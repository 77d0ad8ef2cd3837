import pytest
import torch

from fedfuse.audit.audit import Finding, PlantedAudit, names_of, plant, probe_flags


class Noting:
    """An audit that appends its name to what stands for a federation."""

    needs = frozenset()

    def __init__(self, name):
        self.name = name

    def plant(self, federation, seed):
        return [*federation, f"{self.name} {seed}"], len(federation)


class Probes:
    def __init__(self, probes):
        self.probes = torch.tensor(probes, dtype=torch.int64)


@pytest.mark.parametrize(
    ("low", "high", "floor", "control", "has_power", "verdict"),
    [
        (2.0, 3.0, 1.4, 9.0, True, "leaks"),
        (1.3, 3.0, 1.4, 9.0, True, "no leak found"),
        (2.0, 3.0, 1.4, 1.5, False, "no power"),
        (0.1, 0.2, 0.5, 0.0, True, "leaks"),
        (0.1, 0.6, 0.5, 0.0, True, "no leak found"),
        (0.6, 0.7, 0.5, 0.0, True, "no leak found"),
    ],
)
def test_what_leaks_is_on_the_controls_side_of_the_floor_with_its_whole_interval(
    low, high, floor, control, has_power, verdict
):
    finding = Finding("a", "s", "m", (low + high) / 2, low, high, floor, control, has_power)
    assert finding.verdict == verdict


def test_audits_plant_one_after_the_other_and_each_keeps_its_own_note():
    first, second = Noting("first"), Noting("second")
    federation, planted = plant({"a": first, "b": second}, ["data"], seed=3)
    assert federation == ["data", "first 3", "second 3"]
    assert planted == [PlantedAudit("a", first, 1), PlantedAudit("b", second, 2)]
    assert names_of(planted) == "a, b"


def test_probes_of_all_audits_are_flagged_and_nothing_else():
    audits = [PlantedAudit("a", None, Probes([2])), PlantedAudit("b", None, None), PlantedAudit("c", None, Probes([4]))]
    flags = probe_flags(audits, 6)
    assert flags.dtype == torch.bool
    assert flags.tolist() == [False, False, True, False, True, False]
    assert not probe_flags([], 3).any()
