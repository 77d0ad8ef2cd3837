from dataclasses import replace

import pytest

from fedfuse.composition import compose
from fedfuse.configuration import from_yaml, to_yaml
from fedfuse.report.overrides import overrides_of


def test_the_defaults_need_no_overrides():
    assert overrides_of(compose([])) == []
    assert overrides_of(compose(["output=somewhere"])) == []


@pytest.mark.parametrize(
    "overrides",
    [
        ["seed=3", "num_clients=4", "fraction=0.25", "local_baseline=false"],
        ["strategy=fedmd", "strategy.space=probability"],
        ["strategy=gnmax", "strategy.sigma=20.0", "strategy.epsilon=8.0"],  # leaves a value to the user
        ["strategy=fedproto"],  # brings an objective along
        ["strategy=fedproto", "objective=kd", "objective.temperature=2.0"],
        ["strategy=fedfuse"],  # brings predictors along, and how much is rehearsed
        ["strategy=fedfuse", "strategy.sharpness=1.0", "learn.rehearse=0.0", "absorb.rehearse=closed_form"],
        ["strategy=fedfuse", "predictor.share=plain_head", "predictor.personal={name: two_heads,weight: 0.5}"],
        ["strategy=fedfuse", "predictor.share={name: familiar,quantile: 0.05}"],
        ["strategy=relational", "objective=kd"],
        ["strategy=relational", "objective.weights=[1.0,3.0]"],
        ["objective=sum", "objective.terms=[kd,{name: dist,intra: 2.0}]", "objective.weights=[1.0,0.5]"],
        ["objective=sum", "objective.terms=[{name: standardised,loss: {name: dkd,beta: 2.0}},sp]"],
        ["objective=standardised", "objective.loss=dkd"],
        ["absorb.rehearse=closed_form", "learn.rehearse=0.25"],
        ["transfer.lesson=[margin,{name: partial_mixup,fraction: 0.2}]"],
        ["strategy=fedavg", "model=[{name: cnn_small,channels: [4,8]}]"],
        ["model=[mlp_small,{name: mlp_small,hidden: [3,5]}]"],
        ["privacy=[swing,{name: noise,scale: 0.5},swing]"],
        ["encoding=uint8"],
        ["encoding={name: top_k,k: 5,compressed: false}"],
        ["partition=iid", "partition.min_samples=3"],
        ["data=har"],  # brings a partition, models and a number of clients along
        ["data=har", "partition=dirichlet", "partition.alpha=0.1"],
        ["data=har", "num_clients=5", "model=[mlp_large]"],
        ["data=local", "data.path='my files'"],
        ["partition=file", "partition.path='my split.json'"],
        ["split.samples=500", "split.global_test=official"],
        ["corruption=[noisy_features,{name: noisy_labels,rate: 0.25}]"],
        ["transfer=collage", "transfer.source.grid=3"],
        ["data=office_caltech10", "transfer=domain", "transfer.source.domain=dslr"],
        ["data=mnist", "transfer=other_data", "transfer.data=usps"],
        ["transfer.data={name: usps,path: 'my files'}", "transfer.seed=4"],
        ["strategy=fedprox", "learn.proximal=0.5"],
        ["strategy=fedmd", "learn.proximal=0.5"],
        ["model={0: mlp_small, others: {name: cnn_small,channels: [4]}}"],
        ["transfer/policy=random_subset", "transfer.policy.fraction=0.25"],
        ["learn.optimizer.name=adam", "learn.optimizer.lr=1e-05", "absorb.epochs=7"],
        ["engine=ray", "engine.workers=2"],
        ["predictor.general=nearest_prototype"],
        ["predictor.personal={name: prior_corrected,head: fused}", "predictor.general=fused_head"],
        ["share_facts=[num_examples]"],
        ["share_facts=[]"],
        ["transfer.path='/data/it\\'s here (1), really.npz'"],
        [
            "strategy=custom",
            "strategy._target_=my_package.Mine",
            "++strategy.strength=2",
            "++strategy.names=[a,'b c',null]",
        ],
        ["data=custom", "data._target_='mine.<b>'", "++data.options={deep: {on: true,off: 'false'}}"],
        ["strategy._target_=my_package.BetterKnFu"],
    ],
)
def test_the_overrides_of_a_recorded_configuration_compose_it_again(overrides):
    configuration = from_yaml(to_yaml(compose([*overrides, "output=somewhere"])))
    found = overrides_of(configuration)
    assert found is not None
    assert compose(found) == replace(configuration, output=None)
    assert sorted(word.partition("=")[0] for word in found) == sorted(word.partition("=")[0] for word in overrides)


def test_a_predictor_is_named_in_its_role():
    configuration = compose(["predictor.share={name: plain_head}"])
    assert overrides_of(configuration) == []
    other = replace(configuration.predictor.share, target="mine.Head")
    changed = replace(configuration, predictor=replace(configuration.predictor, share=other))
    assert overrides_of(changed) == ["predictor.share={name: plain_head,_target_: mine.Head}"]


@pytest.mark.parametrize(
    ("overrides", "found"),
    [
        (["predictor=two_heads"], ["predictor.personal=two_heads", "predictor.general=fused_head"]),
        (  # another set than the one that the strategy brings along
            ["strategy=fedfuse", "predictor=plain_head"],
            ["strategy=fedfuse", "predictor.share=plain_head", "predictor.personal=plain_head"],
        ),
        (["strategy=fedfuse", "predictor=fedfuse"], ["strategy=fedfuse"]),
    ],
)
def test_a_set_of_predictors_is_named_role_by_role_where_no_strategy_brings_it_along(overrides, found):
    configuration = compose(overrides)
    assert overrides_of(configuration) == found
    assert compose(found) == configuration


def test_a_predictor_with_values_of_its_own_replaces_the_one_that_a_strategy_brings_along():
    configuration = compose(["predictor=fedfuse"])
    found = overrides_of(configuration)
    assert [word.partition("=")[0] for word in found] == ["predictor.share", "predictor.personal"]
    assert compose(found) == configuration
    changed = compose(["strategy=fedfuse", "predictor.personal={name: prior_corrected,head: fused}"])
    assert changed.predictor.personal.arguments["strength"] == "validation"
    assert compose(overrides_of(changed)) == changed


def test_what_a_strategy_says_of_both_trainings_is_named_for_each():
    configuration = compose(["strategy=fedfuse", "strategy.rehearse=0.5"])
    found = ["strategy=fedfuse", "strategy.rehearse=0.5", "learn.rehearse=0.5", "absorb.rehearse=0.5"]
    assert overrides_of(configuration) is not None
    assert sorted(overrides_of(configuration)) == sorted(found)
    assert compose(found) == configuration


def test_a_part_from_a_folder_of_the_users_own_cannot_be_named_by_overrides_alone(tmp_path):
    (tmp_path / "strategy").mkdir()
    (tmp_path / "strategy" / "mine.yaml").write_text("_target_: mine.Mine\n")
    assert overrides_of(compose(["strategy=mine"], tmp_path)) is None


def test_a_value_that_was_taken_away_cannot_be_written_as_an_override():
    configuration = compose([])
    strategy = replace(configuration.strategy, arguments={"beta": 10.0})
    assert overrides_of(replace(configuration, strategy=strategy)) is None
