import re

import pytest
from hydra.core.global_hydra import GlobalHydra
from required import REQUIRED

from fedfuse import catalogue
from fedfuse.composition import compose, expand, quote
from fedfuse.configuration import (
    Component,
    EngineSettings,
    OptimizerSettings,
    SplitSettings,
    TrainingSettings,
    from_yaml,
    to_yaml,
)
from fedfuse.errors import ConfigurationError


@pytest.fixture
def own(tmp_path):
    """Return a function that writes a file of a user's own and returns their configuration directory."""
    folder = tmp_path / "it's mine"

    def write(path, text):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
        return folder

    return write


def test_defaults():
    configuration = compose([])
    optimizer = OptimizerSettings("sgd", 0.1, 0.5, 0.0)
    assert configuration.seed == 0
    assert configuration.num_clients == 10
    assert configuration.num_rounds == 20
    assert configuration.fraction == 1.0
    assert configuration.min_clients == 1
    assert [model.name for model in configuration.model] == ["mlp_small", "mlp_large", "cnn_small"]
    assert configuration.data.name == "digits"
    assert configuration.partition.name == "dirichlet"
    assert configuration.split == SplitSettings()
    assert (configuration.transfer.size, configuration.transfer.path) == (300, None)
    assert configuration.transfer.policy.name == "all"
    assert configuration.strategy.name == "knfu"
    assert configuration.strategy.target == "strategies.knfu.KnFu"
    defaults = {"beta": 10.0, "divergence": "js", "prior_correction": False, "neighbours": None, "compare": "mean"}
    assert configuration.strategy.arguments == defaults
    assert configuration.objective.name == "kd"
    assert configuration.predictor.share.name == "plain_head"
    assert configuration.predictor.share == configuration.predictor.personal == configuration.predictor.general
    assert configuration.privacy == ()
    assert configuration.learn == TrainingSettings(5, 16, optimizer)
    assert configuration.absorb == TrainingSettings(2, 32, optimizer)
    assert configuration.engine == EngineSettings()
    assert configuration.share_facts == ("num_examples", "test_metrics")
    assert configuration.local_baseline is True
    assert configuration.tracking == ()
    assert configuration.output is None


def test_composed_configuration_survives_its_file():
    overrides = ["strategy=fedproto", "privacy=[swing,noise]", "output='a b: #c'", "learn.optimizer.lr=1e-5"]
    overrides += ["engine=ray", "engine.workers=2", "tracking=[tensorboard]", "transfer.path='é: #.npz'"]
    configuration = compose(overrides)
    assert from_yaml(to_yaml(configuration)) == configuration


@pytest.mark.parametrize(
    "strategy", [name for name in catalogue.names("strategy", catalogue.folders()) if name != "custom"]
)
def test_every_strategy_can_be_chosen(strategy):
    configuration = compose([f"strategy={strategy}", *REQUIRED.get(strategy, [])])
    assert configuration.strategy.name == strategy
    assert configuration.strategy.target.startswith(f"strategies.{strategy}.")


def test_strategy_may_choose_its_objective_and_the_command_line_wins():
    assert compose(["strategy=fedproto"]).objective.name == "prototype"
    assert compose(["objective=cross_entropy", "strategy=fedproto"]).objective.name == "cross_entropy"
    assert "defaults" not in compose(["strategy=fedproto"]).strategy.arguments


def test_strategy_may_choose_its_predictors_and_how_much_is_rehearsed_and_the_command_line_wins():
    chosen = compose(["strategy=fedfuse"])
    assert chosen.predictor == compose(["predictor=fedfuse"]).predictor
    assert chosen.learn.rehearse == chosen.absorb.rehearse == chosen.strategy.arguments["rehearse"] > 0
    assert "defaults" not in chosen.strategy.arguments
    other = compose(["predictor=plain_head", "strategy=fedfuse", "strategy.rehearse=0.1", "learn.rehearse=0.0"])
    assert other.predictor == compose([]).predictor
    assert (other.learn.rehearse, other.absorb.rehearse) == (0.0, 0.1)


def test_last_of_two_overrides_counts():
    configuration = compose(["seed=1", "strategy=fedmd", "seed=2", "strategy=local"])
    assert (configuration.seed, configuration.strategy.name) == (2, "local")


def test_value_overrides_apply_to_the_chosen_part_in_any_order():
    configuration = compose(["strategy.space=probability", "strategy=fedmd"])
    assert configuration.strategy.arguments == {"space": "probability"}


def test_mapping_changes_only_the_keys_that_it_names():
    configuration = compose(["learn={epochs: 3, optimizer: {lr: 1}}"])
    assert configuration.learn == TrainingSettings(3, 16, OptimizerSettings(lr=1))


def test_value_may_refer_to_another_one():
    assert compose(["absorb.optimizer.lr=${learn.optimizer.lr}", "learn.optimizer.lr=0.3"]).absorb.optimizer.lr == 0.3


@pytest.mark.parametrize("key", ["transfer/policy", "transfer.policy"])
def test_inner_group_is_chosen_with_a_slash_or_a_dot(key):
    transfer = compose([f"{key}=random_subset", "transfer.policy.fraction=0.25", "transfer.size=30"]).transfer
    assert (transfer.size, transfer.policy.name) == (30, "random_subset")
    assert transfer.policy.arguments == {"fraction": 0.25}


@pytest.mark.parametrize(
    "override",
    ["model=cnn_small", "model=[cnn_small]", "model=[{name: cnn_small}]", "model={name: cnn_small}"],
)
def test_one_model_can_be_written_in_several_ways(override):
    (model,) = compose([override]).model
    assert model.name == "cnn_small"
    assert model.target == "fedfuse.models.cnn.CNN"
    assert model.arguments == {"channels": [16, 32], "embedding_size": 64}


def test_keys_of_a_model_in_a_list_can_be_changed():
    first, second = compose(["model=[mlp_small,{name: cnn_small, channels: [4,8]}]"]).model
    assert first.name == "mlp_small"
    assert second.arguments == {"channels": [4, 8], "embedding_size": 64}


def test_models_can_be_given_client_by_client():
    models = compose(
        ["model={0: mlp_small, 2-3: {name: cnn_small, embedding_size: 8}, others: mlp_large}", "num_clients=5"]
    )
    assert [model.name for model in models.model] == ["mlp_small", "mlp_large", "cnn_small", "cnn_small", "mlp_large"]
    assert models.model[2].arguments["embedding_size"] == 8
    with pytest.raises(ConfigurationError, match=r"model names none for client 1; add \{others: NAME\}"):
        compose(["model={0: mlp_small}"])
    with pytest.raises(ConfigurationError, match="num_clients must be a whole number of at least 1, not 'many'"):
        compose(["model={0: mlp_small}", "num_clients=many"])


GLOBAL_SOURCE = """# @package _global_
# Thirty people.
defaults:
  - override /partition: iid
data:
  _target_: fedfuse.data.sources.digits.digits
num_clients: 30
model: [mlp_small]
"""


def test_a_data_source_may_have_defaults_for_the_whole_run_which_overrides_change(own):
    folder = own("data/people.yaml", GLOBAL_SOURCE)
    composed = compose(["data=people"], folder)
    assert (composed.data.name, composed.data.target) == ("people", "fedfuse.data.sources.digits.digits")
    assert (composed.partition.name, composed.num_clients, [m.name for m in composed.model]) == (
        "iid",
        30,
        ["mlp_small"],
    )
    changed = compose(["num_clients=4", "data=people", "partition=dirichlet", "model=cnn_small"], folder)
    assert (changed.partition.name, changed.num_clients, changed.model[0].name) == ("dirichlet", 4, "cnn_small")
    # As a transfer set it brings its target only.
    other = compose(["transfer.data=people"], folder)
    assert (other.transfer.data.name, other.transfer.data.arguments, other.num_clients) == ("people", {}, 10)


def test_the_transfer_set_can_be_made_of_another_source():
    assert compose([]).transfer.data is None
    assert compose([]).transfer.source.target == "fedfuse.data.transfer_sets.held_out"
    assert compose(["transfer.data={name: digits}"]).transfer.data.target == "fedfuse.data.sources.digits.digits"
    assert compose(["transfer.source.balanced=true"]).transfer.source.arguments == {"balanced": True}
    with pytest.raises(ConfigurationError, match=r"Unknown data 'digit'\. Did you mean 'digits'"):
        compose(["transfer.data=digit"])


def test_a_split_in_a_file_is_named_once():
    split = compose(["partition=file", "partition.path=my split.json"])
    assert split.partition.arguments["path"] == split.split.path == "my split.json"
    with pytest.raises(
        ConfigurationError, match=r"^partition\.path has no value yet: give one with partition\.path=VALUE"
    ):
        compose(["partition=file"])


def test_corruption_keeps_its_order_and_can_be_changed():
    corruption = compose(["corruption=[noisy_features,{name: noisy_labels, rate: 0.25}]"]).corruption
    assert [one.name for one in corruption] == ["noisy_features", "noisy_labels"]
    assert corruption[1].arguments["rate"] == 0.25
    assert compose([]).corruption == ()


def test_an_encoding_is_chosen_by_name_and_can_be_changed():
    assert compose([]).encoding == Component("float32", "fedfuse.encoding.float32.Float32", {})
    assert compose(["encoding=top_k"]).encoding.arguments == {"k": 3, "compressed": True}
    changed = compose(["encoding={name: top_k, k: 5}"]).encoding
    assert (changed.name, changed.arguments) == ("top_k", {"k": 5, "compressed": True})
    with pytest.raises(ConfigurationError, match=r"^Unknown encoding 'unit8'\. Did you mean 'uint8'\?"):
        compose(["encoding=unit8"])


def test_privacy_keeps_its_order_and_can_be_changed():
    privacy = compose(["privacy=[swing,{name: noise, scale: 0.5},swing]"]).privacy
    assert [step.name for step in privacy] == ["swing", "noise", "swing"]
    assert privacy[1].arguments == {"scale": 0.5, "distribution": "gaussian", "space": "probability", "bound": 5.0}
    assert compose(["privacy=noise"]).privacy[0].arguments["scale"] == 0.05
    assert compose(["privacy=null"]).privacy == compose(["privacy=[]"]).privacy == ()


def test_custom_model_takes_its_class_and_any_arguments():
    small, own = compose(["model=[mlp_small,{name: custom, _target_: my_package.Net, width: 3, layers: [1,2]}]"]).model
    assert small.name == "mlp_small"
    assert (own.name, own.target) == ("custom", "my_package.Net")
    assert own.arguments == {"width": 3, "layers": [1, 2]}


def test_engine_is_a_part_that_is_chosen_with_keys_of_its_own():
    assert compose(["engine=local"]).engine == compose([]).engine == EngineSettings()
    assert compose(["engine=ray"]).engine == EngineSettings(name="ray", runner="sequential")
    changed = compose(["engine.workers=4", "engine=ray", "engine.precision=float64", "engine.timeout=60"]).engine
    assert changed == EngineSettings("ray", "sequential", "float64", 1, 60, workers=4)
    assert compose(["engine=ray", "engine.address=auto"]).engine.address == "auto"
    # What was chosen last counts, and its own values with it.
    assert compose(["engine=ray", "engine=local"]).engine == EngineSettings()


def test_own_engine_file_can_only_be_one_of_the_engines(own):
    with pytest.raises(ConfigurationError, match=r"^engine\.name must be one of local, ray, not 'mine'\.$"):
        compose(["engine=mine"], own("engine/mine.yaml", "threads: 2\n"))
    assert compose(["engine=ray"], own("engine/mine.yaml", "threads: 2\n")).engine.name == "ray"


def test_trackers_keep_their_order_and_can_be_changed(own):
    folder = own("tracking/mine.yaml", "_target_: own.Mine\nproject: theirs\n")
    tracking = compose(["tracking=[tensorboard,{name: mine, project: ours},mine]"], folder).tracking
    assert [tracker.name for tracker in tracking] == ["tensorboard", "mine", "mine"]
    assert [dict(tracker.arguments) for tracker in tracking[1:]] == [{"project": "ours"}, {"project": "theirs"}]
    assert compose(["tracking=mine"], folder).tracking[0].target == "own.Mine"
    assert compose(["tracking=null"]).tracking == compose(["tracking=[]"]).tracking == ()


def test_transfer_set_may_be_a_file():
    assert compose(["transfer.path='my files/transfer.npz'"]).transfer.path == "my files/transfer.npz"
    assert compose(["transfer.path=null"]).transfer.path is None


def test_custom_strategy_takes_its_class_and_arguments_from_the_command_line():
    overrides = ["strategy=custom", "strategy._target_=my_package.MyStrategy", "++strategy.strength=2"]
    strategy = compose(overrides).strategy
    assert (strategy.name, strategy.target) == ("custom", "my_package.MyStrategy")
    assert strategy.arguments == {"strength": 2}


def test_composing_again_starts_afresh():
    assert compose(["strategy=fedmd", "seed=3"]) != compose([])
    assert compose([]) == compose([])
    with pytest.raises(ConfigurationError):
        compose(["strategy=nothing"])
    assert compose([]).seed == 0
    assert not GlobalHydra.instance().is_initialized()


def test_own_directory_adds_parts_of_every_kind(own):
    own(
        "strategy/mine.yaml",
        "defaults:\n  - override /objective@_global_.objective: cross_entropy\n_target_: own.Mine\nstrength: 3\n",
    )
    own("model/tiny.yaml", "_target_: own.Tiny\nwidth: 2\n")
    own("privacy/mask.yaml", "_target_: own.Mask\n")
    folder = own("predictor/answer/mean.yaml", "_target_: own.Mean\n")
    overrides = [
        "strategy=mine",
        "strategy.strength=4",
        "model=[tiny,mlp_small]",
        "privacy=mask",
        "predictor.general=mean",
    ]
    configuration = compose(overrides, folder)
    assert configuration.strategy.target == "own.Mine"
    assert configuration.strategy.arguments == {"strength": 4}
    assert configuration.objective.name == "cross_entropy"
    assert [model.target for model in configuration.model] == ["own.Tiny", "fedfuse.models.mlp.MLP"]
    assert configuration.privacy[0].target == "own.Mask"
    assert configuration.predictor.general.target == "own.Mean"
    assert configuration.predictor.share.name == "plain_head"


def test_own_directory_can_be_relative(own, monkeypatch):
    folder = own("strategy/mine.yaml", "_target_: own.Mine\n")
    monkeypatch.chdir(folder.parent)
    assert compose(["strategy=mine"], folder.relative_to(folder.parent)).strategy.target == "own.Mine"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "strength: 3\n",
            "strategy mine has no class: write strategy=mine strategy._target_=my_package.MyStrategy",
        ),
        (
            "_target_: own.Mine\nstrength: ???\n",
            "strategy.strength has no value yet: give one with strategy.strength=VALUE.",
        ),
        ("_target_: [", "Cannot compose the configuration: "),
        ("_target_: own.Mine\nrate: ${nowhere}\n", "strategy.rate: Interpolation key 'nowhere' not found."),
        ("defaults:\n  - /objective: nothing\n", "Cannot compose the configuration: "),
    ],
)
def test_mistakes_in_an_own_file_are_told_in_one_line(own, text, expected):
    with pytest.raises(ConfigurationError) as caught:
        compose(["strategy=mine"], own("strategy/mine.yaml", text))
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)


ALL_STRATEGIES = f"Valid: {', '.join(catalogue.names('strategy', catalogue.folders()))}."
ERRORS = [
    # values
    ("seed=abc", "seed must be a whole number of at least 0, not 'abc'."),
    ("seed=1.5", "seed must be a whole number of at least 0, not 1.5."),
    ("seed=true", "seed must be a whole number of at least 0, not True."),
    ("seed=null", "seed must be a whole number of at least 0, not None."),
    ("seed=", "seed must be a whole number of at least 0, not ''."),
    ("seed=[1]", "seed must be a whole number of at least 0, not [1]."),
    ("num_clients=-1", "num_clients must be a whole number of at least 1, not -1."),
    ("fraction=0", "fraction must be a number above 0 and at most 1, not 0."),
    ("min_clients=11", "min_clients must be at most num_clients (10), not 11."),
    ("learn.optimizer.name=sdg", "learn.optimizer.name must be one of sgd, adam, adamw, rmsprop, not 'sdg'. "
     "Did you mean 'sgd'?"),
    ("absorb.optimizer.momentum=1", "absorb.optimizer.momentum must be a number from 0 to below 1, not 1."),
    ("engine.runner=fast", "engine.runner must be one of auto, sequential, stacked, probe, not 'fast'."),
    ("engine={runner: fast}", "engine.runner must be one of auto, sequential, stacked, probe, not 'fast'."),
    ("engine.precision=float46", "engine.precision must be one of float32, float64, not 'float46'. Did"),
    ("split.test=0.9", "split.validation (0.15) and test (0.9) together must stay below 1."),
    ("transfer.path=3", "transfer.path must be text, not 3."),
    ("engine.threads=0", "engine.threads must be a whole number of at least 1, not 0."),
    ("share_facts=[num_exampels]", "share_facts[0] must be one of num_examples, label_counts, private_labels, "),
    ("share_facts=num_examples", "share_facts must be a list, for example share_facts=[a,b], not 'num_"),
    ("local_baseline=1", "local_baseline must be true or false, not 1."),
    ("output=3", "output must be text, not 3."),
    ("learn=3", "learn must be a mapping with the keys epochs, batch_size, optimizer, proximal, rehearse, not 3."),
    ("learn.optimizer.lr=nan", "learn.optimizer.lr must be a finite number, not nan."),
    ("strategy.beta=-inf", "strategy.beta must be a finite number, not -inf."),
    ("privacy=[{name: noise, scale: inf}]", "privacy.0.scale must be a finite number, not inf."),
    ("strategy.beta=???", "strategy.beta has no value yet: give one with strategy.beta=VALUE."),
    ("seed=${nowhere}", "seed: Interpolation key 'nowhere' not found."),
    # keys
    ("sed=3", "Unknown key 'sed'. Did you mean 'seed'? Valid: transfer, objective,"),
    ("num_client=3", "Unknown key 'num_client'. Did you mean 'num_clients'?"),
    ("strategy.bata=3", "Unknown key 'strategy.bata'. Did you mean 'strategy.beta'? "
     "Valid: strategy._target_, strategy.beta, strategy.divergence, strategy.prior_correction, "
     "strategy.neighbours, strategy.compare. "
     "An argument that is not listed: ++strategy.bata=VALUE."),
    ("patition.alpha=1", "Unknown key 'patition.alpha'. Did you mean 'partition.alpha'?"),
    ("alpha=1", "Unknown key 'alpha'. Did you mean 'partition.alpha'?"),
    ("lr=1", "Unknown key 'lr'. Did you mean 'learn.optimizer.lr' or 'absorb.optimizer.lr'?"),
    ("learn.lr=1", "Unknown key 'learn.lr'. Did you mean 'learn.optimizer.lr' or 'absorb.optimizer.lr'? "
     "Valid: learn.epochs, learn.batch_size, learn.proximal, learn.rehearse, learn.optimizer."),
    ("epoch=1", "Unknown key 'epoch'. Did you mean 'learn.epochs'?"),
    ("seed.inner=1", "Unknown key 'seed.inner'. Did you mean 'seed'?"),
    ("model.0=cnn_small", "Unknown key 'model.0'. Did you mean 'model'?"),
    ("hydra.run.dir=x", "Unknown key 'hydra.run.dir'."),
    ("transfer/polic=all", "Unknown key 'transfer/polic'. Did you mean 'transfer.policy'?"),
    ("learn={epoch: 3}", "Unknown key 'learn.epoch'. Did you mean 'learn.epochs'?"),
    ("+sed=3", "Unknown key 'sed'. Did you mean 'seed'?"),
    ("~seed", "~seed is not possible: write seed=VALUE."),
    ("seed@x=1", "seed@x=1 is not possible: write seed=VALUE."),
    ("engine.address=auto", "Unknown key 'engine.address'. Did you mean 'engine.workers'? Valid: engine.runner, "
     "engine.device, engine.precision, engine.tf32, engine.threads, engine.timeout, engine.workers."),
    ("engine.device=gpu", "engine.device must be one of auto, cpu, cuda, not 'gpu'."),
    ("engine.name=ray", "Unknown key 'engine.name'."),
    ("transfer.pat=x", "Unknown key 'transfer.pat'. Did you mean 'transfer.path'?"),
    # parts of which one is chosen
    ("strategy=knfuu", f"Unknown strategy 'knfuu'. Did you mean 'knfu'? {ALL_STRATEGIES}"),
    ("strategy=[knfu]", f"Unknown strategy '[knfu]'. Did you mean 'knfu'? {ALL_STRATEGIES}"),
    ("strategy=null", "Unknown strategy 'null'."),
    ("engine=rya", "Unknown engine 'rya'. Did you mean 'ray'? Valid: local, ray."),
    ("engine=loca", "Unknown engine 'loca'. Did you mean 'local'? Valid: local, ray."),
    ("engine=null", "Unknown engine 'null'. Valid: local, ray."),
    ("+engine=ray", "+engine=ray is not possible: write engine=NAME."),
    ("strategy=", f"Unknown strategy ''. {ALL_STRATEGIES}"),
    ("data=digit", "Unknown data 'digit'. Did you mean 'digits'?"),
    ("transfer/policy=rando_subset", "Unknown transfer/policy 'rando_subset'. Did you mean 'random_subset'?"),
    ("~strategy", "~strategy is not possible: write strategy=NAME."),
    ("+strategy=knfu", "+strategy=knfu is not possible: write strategy=NAME."),
    ("strategy@x=knfu", "strategy@x=knfu is not possible: write strategy=NAME."),
    ("strategy=custom", "strategy custom has no class: write strategy=custom "
     "strategy._target_=my_package.MyStrategy"),
    # parts in lists and roles
    ("model=mlp_smal", "Unknown model 'mlp_smal'. Did you mean 'mlp_small'? "
     f"Valid: {', '.join(catalogue.names('model', catalogue.folders()))}."),
    ("model=[]", "model must name at least one model, for example model=[mlp_small]."),
    ("model=[{channels: [4]}]", "A model is NAME or {name: NAME, key: value}, not {'channels': [4]}."),
    ("model=[{name: cnn_small, chanels: [4]}]", "Unknown key of model cnn_small 'chanels'. Did you mean 'ch"),
    ("model=custom", "model custom has no class: write {name: custom, _target_: my_package.MyModel}."),
    ("model=[{name: custom, width: 3}]", "model custom has no class: write {name: custom, _target_: my_package.MyM"),
    ("model=[3]", "A model is NAME or {name: NAME, key: value}, not 3."),
    ("privacy=[swin]", "Unknown privacy 'swin'. Did you mean 'swing'?"),
    ("tracking=[wandbb]", "Unknown tracking 'wandbb'. Did you mean 'wandb'?"),
    ("privacy=[gaussian]", "privacy gaussian needs a value for sigma: write {name: gaussian, sigma: VALUE}."),
    ("tracking=3", "A tracking is NAME or {name: NAME, key: value}, not 3."),
    ("predictor.share=plain_hed", "Unknown predictor/answer 'plain_hed'. Did you mean 'plain_head'?"),
    ("predictor.personal={name: prior_corrected, hed: fused}", "Unknown key of predictor/answer prior_corrected 'he"),
    ("predictor=two_hed", "Unknown predictor 'two_hed'. Did you mean 'two_heads'?"),
    ("+predictor=two_heads", "+predictor=two_heads is not possible: write predictor=NAME."),
    ("predictor=3", "Unknown predictor '3'."),
    # what cannot be read, and several values
    ("seed", "Cannot read 'seed': write key=value"),
    ("a=[1", "Cannot read 'a=[1': write key=value"),
    ("=3", "Cannot read '=3': write key=value"),
    ("", "Cannot read '': write key=value"),
    ("seed=1,2", "seed=1,2 gives several values: add -m to run each, or write [a,b] for a list."),
    ("strategy=choice(knfu,local)", "strategy=choice(knfu,local) gives several values: add -m to run each"),
    ("seed=range(0,3)", "seed=range(0,3) gives several values: add -m to run each"),
]  # fmt: skip


@pytest.mark.parametrize(("override", "expected"), ERRORS)
def test_mistake_is_answered_in_one_line(override, expected):
    with pytest.raises(ConfigurationError) as caught:
        compose([override])
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("engine.runner=stacked", "engine.runner=stacked trains clients together; engine=ray sends them one by one."),
        ("engine.workers=0", "engine.workers must be a whole number of at least 1, not 0."),
        ("engine.address=3", "engine.address must be text, not 3."),
        (
            "engine={workers: 2, address: auto}",
            "engine.workers is for a Ray of the run's own; address names one that is running.",
        ),
        ("engine.worker=2", "Unknown key 'engine.worker'. Did you mean 'engine.workers'?"),
    ],
)
def test_mistake_with_ray_is_answered_in_one_line(override, expected):
    with pytest.raises(ConfigurationError) as caught:
        compose(["engine=ray", override])
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("override", ["++model.first=3", "++model.9=mlp_small"])
def test_value_that_cannot_be_set_is_refused(override):
    with pytest.raises(ConfigurationError, match=f"^Cannot set {re.escape(override)}: "):
        compose([override])


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], [[]]),
        (["seed=3", "output='a b'"], [["seed=3", "output='a b'"]]),
        (
            ["a=1,2", "c=x", "b=range(0,2)"],
            [["a=1", "c=x", "b=0"], ["a=1", "c=x", "b=1"], ["a=2", "c=x", "b=0"], ["a=2", "c=x", "b=1"]],
        ),
        (["++a=choice(x,y)"], [["++a=x"], ["++a=y"]]),
        (["a=range(0,1,0.5)"], [["a=0.0"], ["a=0.5"]]),
        (["model=[a,b],[{name: c, d: [1,2]}]"], [["model=[a,b]"], ["model=[{name:c,d:[1,2]}]"]]),
    ],
)
def test_expansion_is_the_product_in_order(overrides, expected):
    assert expand(overrides) == expected


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("a=glob(*)", "a=glob(*) cannot be listed: use a,b or choice(a,b) or range(0,3)."),
        ("a=interval(0,1)", "a=interval(0,1) cannot be listed: use a,b or choice(a,b) or range(0,3)."),
        ("a=range(0,3,0)", "a=range(0,3,0) cannot be listed: range() arg 3 must not be zero"),
        ("a=range(3,3)", "a=range(3,3) has no values."),
        ("seed", "Cannot read 'seed': write key=value"),
    ],
)
def test_what_cannot_be_expanded_is_told(override, expected):
    with pytest.raises(ConfigurationError) as caught:
        expand(["seed=1,2", override])
    assert str(caught.value).startswith(expected)


@pytest.mark.parametrize("text", ["plain", "it's", 'say "so"', "a=b,c", "x\\", "[1", "é ü", "run (1): #2"])
def test_quoted_text_is_the_value_of_an_override(text):
    assert compose([f"output={quote(text)}"]).output == text
