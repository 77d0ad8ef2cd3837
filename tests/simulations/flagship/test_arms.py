from pathlib import Path

import pytest

from fedfuse.assembly import make_strategy
from fedfuse.composition import compose

ROOT = Path(__file__).parents[3]
ARMS = ROOT / "simulations" / "flagship" / "arms"


def arm(name):
    return compose([f"strategy={name}"], ARMS)


@pytest.mark.parametrize("path", sorted((ARMS / "strategy").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_arm_can_be_run_and_differs_from_fedfuse_in_what_its_name_says(path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    configuration, ours = arm(path.stem), compose(["strategy=fedfuse"])
    strategy = make_strategy(configuration.strategy)
    rehearses = path.stem not in ("without_rehearsal", "local_with_prior")
    assert configuration.learn.rehearse == configuration.absorb.rehearse == (0.3 if rehearses else 0)
    shares_what_is_familiar = configuration.predictor.share == ours.predictor.share
    assert shares_what_is_familiar == (path.stem in ("without_rehearsal", "without_prior", "two_heads"))
    assert (configuration.predictor.personal == ours.predictor.personal) == (
        path.stem not in ("without_prior", "two_heads")
    )
    assert strategy.sends == {
        "densities": {"soft_labels", "densities"},
        "local_with_prior": set(),
    }.get(path.stem, {"soft_labels"})


def test_the_plain_mean_weighs_all_answers_alike():
    assert arm("plain_mean").strategy.arguments["sharpness"] == 0
    assert arm("plain_mean").predictor == arm("without_familiarity").predictor
