import importlib.util
import json
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "simulations" / "flagship" / "margins.py"


@pytest.fixture
def margins():
    specification = importlib.util.spec_from_file_location("margins", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def run_of(method, seed, own_test, global_test):
    measures = {"own_test": own_test, "global_test": global_test}
    return {"method": method, "seed": seed, "setting": ["alpha=1"], "measures": measures, "error": None}


def test_differences_are_of_the_same_seeds_and_against_the_best_of_those_named(tmp_path, capsys, margins):
    values = {
        "local": [(0.80, 0.30), (0.70, 0.30)],
        "better": [(0.78, 0.92), (0.70, 0.92)],
        "worse": [(0.60, 0.10), (0.60, 0.10)],
        "fedfuse": [(0.83, 0.90), (0.72, 0.91)],
    }
    runs = [run_of(method, seed, *values[method][seed]) for method in values for seed in (1, 0)]
    (tmp_path / "comparison.json").write_text(json.dumps({"runs": runs}))
    margins.main(tmp_path, ["worse", "better"])
    own_local, own_best, everybody = capsys.readouterr().out.splitlines()[2:]
    # The 97.5 % quantile of Student's t with one degree of freedom is 12.706.
    assert own_local == "| alpha=1 | own test | local | +2.5 | [-3.9, +8.9] | on average |"
    assert own_best == "| alpha=1 | own test | better | +3.5 | [-15.6, +22.6] | on average |"
    assert everybody == "| alpha=1 | global test | better | -1.5 | [-7.9, +4.9] | no |"


def test_a_difference_that_is_surely_small_is_within_the_margin(tmp_path, capsys, margins):
    values = {"local": [0.500, 0.501, 0.502], "fedfuse": [0.499, 0.501, 0.501]}
    runs = [run_of(method, seed, own, own) for method, owns in values.items() for seed, own in enumerate(owns)]
    (tmp_path / "comparison.json").write_text(json.dumps({"runs": runs}))
    margins.main(tmp_path, ["local"])
    assert capsys.readouterr().out.splitlines()[2].endswith("| local | -0.1 | [-0.2, +0.1] | yes |")
