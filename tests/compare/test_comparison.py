import json
import math

import pytest

from fedfuse.compare.comparison import MEASURES, make_comparison, to_plain
from fedfuse.compare.outcome import Outcome


def compare(plan, outcomes):
    return make_comparison(plan, {run.folder: outcomes.get(run.folder, Outcome()) for run in plan.runs})


def test_each_method_has_its_mean_and_spread_over_seeds(make_plan, measured):
    plan = make_plan(seeds=(0, 1))
    comparison = compare(
        plan,
        {
            "local-seed=0": measured(0.5, sent_bytes=0),
            "local-seed=1": measured(0.7, sent_bytes=0),
            "knfu-seed=0": measured(0.6, global_test=0.4, worst_10_percent=0.1, sent_bytes=1000, seconds=3.0),
            "knfu-seed=1": measured(0.9, global_test=0.6, worst_10_percent=0.3, sent_bytes=3000, seconds=5.0),
        },
    )
    ((local, knfu),) = (block.rows for block in comparison.blocks)
    assert (local.method, knfu.method, knfu.num_finished) == ("local", "knfu", 2)
    means = {name: knfu.estimates[name].mean for name in MEASURES}
    assert means == pytest.approx(
        {"own_test": 0.75, "global_test": 0.5, "worst_10_percent": 0.2, "sent_bytes": 2000, "seconds": 4.0}
    )
    assert knfu.estimates["own_test"].std == pytest.approx(0.3 / math.sqrt(2))
    assert local.differences == {}
    # 0.1 and 0.2: t = 0.15 / 0.05 = 3.
    assert knfu.differences["own_test"].mean == pytest.approx(0.15)
    assert knfu.differences["own_test"].p == pytest.approx(1 - 2 * math.atan(3) / math.pi)


def test_only_seeds_that_both_have_are_paired(make_plan, measured):
    plan = make_plan(seeds=(0, 1, 2))
    comparison = compare(
        plan,
        {
            "local-seed=0": measured(0.5),
            "local-seed=2": measured(0.6),
            "knfu-seed=1": measured(0.9),
            "knfu-seed=2": measured(0.8),
        },
    )
    local, knfu = comparison.blocks[0].rows
    assert (local.estimates["own_test"].mean, knfu.estimates["own_test"].mean) == pytest.approx((0.55, 0.85))
    difference = knfu.differences["own_test"]
    assert (difference.mean, difference.num_seeds, difference.reason) == (pytest.approx(0.2), 1, "one seed")


def test_what_no_client_told_is_unknown_and_not_paired(make_plan, measured):
    plan = make_plan(seeds=(0, 1))
    comparison = compare(
        plan,
        {
            "local-seed=0": measured(0.5, global_test=None),
            "local-seed=1": measured(0.6, global_test=0.5),
            "knfu-seed=0": measured(0.9, global_test=0.9),
            "knfu-seed=1": measured(0.8, global_test=None),
        },
    )
    local, knfu = comparison.blocks[0].rows
    assert local.estimates["global_test"].mean == 0.5
    assert knfu.estimates["global_test"].mean == 0.9
    assert knfu.differences["global_test"] is None
    assert knfu.differences["own_test"].num_seeds == 2


def test_tests_are_adjusted_within_a_setting_and_a_measure(make_plan, measured):
    low, high = ("partition.alpha=0.1",), ("partition.alpha=1",)
    plan = make_plan(("local", "a", "b"), seeds=(0, 1), settings=(low, high))
    own = {"local": (0.5, 0.5), "a": (0.51, 0.53), "b": (0.51, 0.52)}  # t = 2 and t = 3
    outcomes = {}
    for run in plan.runs:
        # In the second setting, b has not finished.
        if run.setting == low or run.method != "b":
            outcomes[run.folder] = measured(own[run.method][run.seed], 0.5 + 0.1 * run.seed)
    two, three = (1 - 2 * math.atan(t) / math.pi for t in (2, 3))
    first, second = compare(plan, outcomes).blocks
    assert (first.setting, second.setting) == (low, high)
    assert [row.method for row in first.rows] == ["local", "a", "b"]
    adjusted = {row.method: row.differences["own_test"].adjusted_p for row in first.rows[1:]}
    assert adjusted == pytest.approx({"a": 2 * three, "b": 2 * three})
    assert first.rows[1].differences["own_test"].p == pytest.approx(two)
    assert second.rows[1].differences["own_test"].adjusted_p == pytest.approx(two)
    assert second.rows[2].differences["own_test"] is None
    # The same for every seed: nothing is tested, so nothing is adjusted.
    assert first.rows[1].differences["global_test"].adjusted_p is None


def test_why_runs_failed_is_said_once_a_method(make_plan, measured):
    plan = make_plan(("local", "fedavg"), seeds=(0, 1, 2))
    errors = {f"fedavg-seed={seed}": Outcome(error=error) for seed, error in enumerate(("one", "two", "one"))}
    local, fedavg = compare(plan, errors).blocks[0].rows
    assert (fedavg.errors, fedavg.num_finished, local.errors) == (("one", "two"), 0, ())
    assert fedavg.estimates["own_test"] is None


def test_comparison_becomes_plain_values(make_plan, measured):
    plan = make_plan(settings=(("partition.alpha=1",),), notes=("Beware.",))
    folder = plan.runs[0].folder
    comparison = compare(plan, {folder: measured(0.5), plan.runs[1].folder: Outcome(error="why")})
    plain = json.loads(json.dumps(to_plain(comparison), allow_nan=False))
    assert plain["notes"] == ["Beware."]
    assert plain["settings"][0]["setting"] == ["partition.alpha=1"]
    local = plain["settings"][0]["methods"][0]
    assert local["runs"] == ["local-1-seed=0", "local-1-seed=1"]
    assert local["estimates"]["own_test"] == {"mean": 0.5, "std": None, "num_seeds": 1}
    assert plain["runs"][0]["measures"]["own_test"] == 0.5
    assert (plain["runs"][1]["folder"], plain["runs"][1]["error"]) == ("knfu-1-seed=0", "why")
