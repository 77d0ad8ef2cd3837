import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fedfuse.client.client import first_state
from fedfuse.compare.plan import make_plan, open_directory, read_plan
from fedfuse.composition import compose
from fedfuse.errors import ConfigurationError
from fedfuse.simulate import assemble

pytestmark = pytest.mark.usefixtures("own_search_path")


def labels(plan):
    return [(run.method, run.setting, run.seed) for run in plan.runs]


def test_every_combination_is_a_run_seed_by_seed_with_local_first():
    plan = make_plan(["strategy=knfu,local", "seed=3,1", "partition.alpha=0.1,1"])
    low, high = ("partition.alpha=0.1",), ("partition.alpha=1",)
    assert labels(plan) == [
        (method, setting, seed) for seed in (3, 1) for setting in (low, high) for method in ("local", "knfu")
    ]
    assert plan.runs[1].overrides == ("strategy=knfu", "seed=3", "partition.alpha=0.1")
    assert plan.notes == ()


def test_local_is_added_to_every_setting_and_said_so():
    plan = make_plan(["strategy=fedmd", "num_rounds=4,5", "engine.threads=2"])
    assert [(run.method, run.num_rounds, run.threads) for run in plan.runs] == [
        ("local", 4, 2),
        ("fedmd", 4, 2),
        ("local", 5, 2),
        ("fedmd", 5, 2),
    ]
    assert plan.notes[0] == "strategy=local was added: all others are compared with it."


def test_without_words_the_default_strategy_is_compared_with_local():
    assert labels(make_plan([])) == [("local", (), 0), ("knfu", (), 0)]


def test_local_alone_is_run_once():
    assert labels(make_plan(["strategy=local"])) == [("local", (), 0)]


def test_what_belongs_to_a_strategy_makes_a_method_and_is_not_for_local():
    plan = make_plan(["strategy=local,knfu", "strategy.divergence=kl,js", "privacy=[],[swing]"])
    assert [run.method for run in plan.runs] == [
        "local",
        "knfu divergence=kl privacy=[]",
        "knfu divergence=kl privacy=[swing]",
        "knfu divergence=js privacy=[]",
        "knfu divergence=js privacy=[swing]",
    ]
    assert plan.runs[0].overrides == ("strategy=local",)


def test_encodings_are_compared_with_one_local_run():
    plan = make_plan(["strategy=fedmd", "encoding=float32,top_k"])
    assert [run.method for run in plan.runs] == ["local", "fedmd encoding=float32", "fedmd encoding=top_k"]
    assert plan.runs[0].overrides == ("strategy=local",)


def test_local_can_run_beside_a_protected_strategy_of_ones_own():
    words = ["strategy=custom", "strategy._target_=strategies.fedmd.FedMD", "++strategy.space=logit,probability"]
    plan = make_plan([*words, "privacy=[swing]"])
    assert [run.method for run in plan.runs] == ["local", "custom space=logit", "custom space=probability"]
    assemble(compose([*plan.runs[0].overrides, "num_clients=2", "transfer.size=20"]))


def test_methods_of_one_seed_have_the_same_data_and_initial_weights():
    plan = make_plan(["strategy=fedmd,knfu,fedproto", "model=mlp_small", "seed=5", "num_clients=3"])
    first, *others = (assemble(compose(run.overrides)) for run in plan.runs)
    assert len(others) == 3
    for other in others:
        assert other.federation.shared.transfer.digest == first.federation.shared.transfer.digest
        for one, same in zip(first.clients, other.clients, strict=True):
            for samples in ("train", "validation", "test"):
                assert torch.equal(getattr(one.data, samples).inputs, getattr(same.data, samples).inputs)
                assert torch.equal(getattr(one.data, samples).labels, getattr(same.data, samples).labels)
            weights, same_weights = (
                first_state(client, simulation.settings).parameters
                for client, simulation in ((one, first), (same, other))
            )
            assert weights.keys() == same_weights.keys()
            assert all(torch.equal(weights[name], same_weights[name]) for name in weights)


def test_folders_are_readable():
    plan = make_plan(["strategy=knfu", "seed=0,1", "partition.alpha=0.1,1"])
    assert [run.folder for run in plan.runs][:3] == [
        "local-alpha=0.1-seed=0",
        "knfu-alpha=0.1-seed=0",
        "local-alpha=1-seed=0",
    ]


def test_keys_that_end_alike_are_written_out_in_folders():
    plan = make_plan(["strategy=local", "learn.epochs=1,2", "absorb.epochs=1,2"])
    assert plan.runs[1].folder == "local-learn.epochs=1-absorb.epochs=2-seed=0"


def test_folders_of_any_values_are_unique_and_safe():
    models = ["[mlp_small]", "[mlp_small,mlp_large]", "[{name: cnn_small, channels: [4, 8]}]"]
    models += [f"[{','.join(['mlp_small'] * number)}]" for number in (20, 21)]  # alike in their first 80 characters
    plan = make_plan(["strategy=local", f"model={','.join(models)}", "++data.note='a/../b','A|..\\c'"])
    folders = [run.folder for run in plan.runs]
    assert len({folder.lower() for folder in folders}) == 10
    for folder in folders:
        assert len(folder) <= 100
        assert Path(folder).name == folder
        assert folder.isascii()
        assert not set(folder) & set("/\\|[]{}' \"")


def test_methods_of_a_setting_have_the_same_budget_even_if_a_strategy_asks_for_more(tmp_path):
    (tmp_path / "own" / "strategy").mkdir(parents=True)
    longer = "# @package _global_\nlearn:\n  epochs: 9\nstrategy:\n  _target_: strategies.fedmd.FedMD\n"
    (tmp_path / "own" / "strategy" / "longer.yaml").write_text(longer)
    plan = make_plan(["strategy=longer,knfu", "partition.alpha=0.1,1"], tmp_path / "own")
    assert plan.config_dir == str(tmp_path / "own")
    configurations = [compose(run.overrides, tmp_path / "own") for run in plan.runs]
    assert len({(one.num_rounds, one.learn, one.absorb) for one in configurations}) == 1
    assert len(plan.notes) == 1


def test_settings_with_different_budgets_are_pointed_out():
    plan = make_plan(["strategy=local", "learn.epochs=1,2", "num_rounds=3,4", "seed=0,1", "fraction=0.5,1"])
    assert plan.notes == (
        "The settings differ in their budget (learn.epochs, num_rounds): compare methods within a setting only.",
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["strategy=knfu,fedvag"], r"Did you mean 'fedavg'\?.* \(in strategy=fedvag\)$"),
        (["sed=1,2"], "Did you mean 'seed'"),
        (["learn.epochs=1,0"], r"learn.epochs must be a whole number of at least 1, not 0. \(in learn.epochs=0"),
        (["strategy=fedmd,knfu", "strategy.divergence=kl"], "Unknown key 'strategy.divergence'"),
        (["seed=0,0"], "Two combinations are the same run: seed=0 and seed=0"),
        (["seed=0,1", "seed=2"], "Two combinations are the same run"),
        (["partition.alpha=0.1,0.10"], "Two combinations are the same run"),
        (["seed=interval(0,1)"], "cannot be listed"),
        (["strategy"], "Cannot read 'strategy'"),
    ],
)
def test_a_mistake_in_any_combination_is_found(words, message):
    with pytest.raises(ConfigurationError, match=message):
        make_plan(words)


def test_plan_is_read_back_as_it_was_written(tmp_path):
    plan = make_plan(["strategy=fedmd", "seed=0,1", "num_rounds=1,2"])
    assert open_directory(plan, tmp_path / "new" / "one") == tmp_path / "new" / "one"
    assert read_plan(tmp_path / "new" / "one") == plan


def test_a_directory_of_its_own_for_every_comparison(make_plan):
    first, second = (open_directory(make_plan(), None) for _ in range(2))
    assert first.parent == second.parent == Path("outputs/compare")
    assert first != second
    assert read_plan(second) == make_plan()


def test_the_same_words_continue_in_the_same_directory(make_plan, tmp_path):
    plan = make_plan()
    open_directory(plan, tmp_path)
    (tmp_path / "comparison.md").write_text("")
    assert open_directory(plan, tmp_path) == tmp_path
    with pytest.raises(ConfigurationError, match=r"holds another comparison, of strategy=knfu seed=0,1\. Use resume="):
        open_directory(replace(plan, words=("seed=1",)), tmp_path)


@pytest.mark.parametrize("name", ["notes.txt", "config.yaml"])
def test_a_directory_that_holds_something_else_is_refused(make_plan, name, tmp_path):
    (tmp_path / name).write_text("")
    with pytest.raises(ConfigurationError, match="exists and holds no comparison"):
        open_directory(make_plan(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_file_is_no_directory(make_plan, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="exists and holds no comparison"):
        open_directory(make_plan(), tmp_path / "file")


def test_what_is_no_comparison_cannot_be_read(tmp_path):
    with pytest.raises(ConfigurationError, match=r"is not the directory of a comparison\.$"):
        read_plan(tmp_path)
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(ConfigurationError, match="It is a run: fedfuse run resume="):
        read_plan(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", json.dumps({"runs": [{"overrides": [], "setting": []}]})])
def test_a_broken_plan_is_refused(text, tmp_path):
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(ConfigurationError, match="cannot be read as the plan"):
        read_plan(tmp_path)


def test_clients_alone_get_all_that_the_others_learn_with():
    learning = ("learn.rehearse=0.5", "predictor=two_heads", "transfer.lesson=[margin]")
    for strategies in ("strategy=fedmd", "strategy=local,fedmd"):
        plan = make_plan([strategies, *learning])
        assert [run.method for run in plan.runs] == ["local", "fedmd"]
        alone, federated = (compose(run.overrides) for run in plan.runs)
        assert alone == replace(federated, strategy=alone.strategy)
        assert (alone.learn.rehearse, alone.predictor.personal.name) == (0.5, "two_heads")
        assert [lesson.name for lesson in alone.transfer.lesson] == ["margin"]


def test_attacks_belong_to_methods_and_are_not_made_on_local():
    plan = make_plan(["strategy=fedmd", "audit=[],[canary]"])
    assert [run.method for run in plan.runs] == ["local", "fedmd audit=[]", "fedmd audit=[canary]"]
    assert plan.runs[0].overrides == ("strategy=local",)
