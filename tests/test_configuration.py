import dataclasses
import math

import pytest
from omegaconf import OmegaConf

from fedfuse.configuration import (
    Component,
    Configuration,
    EngineSettings,
    OptimizerSettings,
    PredictorSettings,
    SplitSettings,
    TrainingSettings,
    TransferSettings,
    from_mapping,
    from_yaml,
    to_yaml,
)
from fedfuse.errors import ConfigurationError

PART = Component("one", "package.One", {"sizes": [4, 8], "rate": 1e-5, "mode": None, "nested": {"on": True}})
TRAINING = TrainingSettings(epochs=2, batch_size=8, optimizer=OptimizerSettings())


def configuration(**changes):
    values = {
        "seed": 0,
        "num_clients": 4,
        "num_rounds": 2,
        "fraction": 1.0,
        "min_clients": 1,
        "model": (PART, PART),
        "data": PART,
        "partition": PART,
        "split": SplitSettings(),
        "transfer": TransferSettings(policy=PART),
        "strategy": PART,
        "objective": PART,
        "predictor": PredictorSettings(PART, PART, PART),
        "privacy": (),
        "learn": TRAINING,
        "absorb": TRAINING,
        "engine": EngineSettings(),
        "share_facts": ("num_examples",),
        "local_baseline": True,
        "output": None,
    }
    return Configuration(**{**values, **changes})


def plain():
    """Return the values of a configuration as they stand in its file."""
    values = dataclasses.asdict(configuration())
    values["transfer"]["lesson"] = list(values["transfer"]["lesson"])
    return values | {
        name: list(values[name]) for name in ("model", "privacy", "share_facts", "tracking", "corruption", "audit")
    }


def test_defaults_of_the_inner_settings():
    assert OptimizerSettings() == OptimizerSettings(name="sgd", lr=0.1, momentum=0.5, weight_decay=0.0)
    assert EngineSettings() == EngineSettings(
        name="local", runner="auto", precision="float32", threads=1, timeout=3600, workers=None, address=None
    )
    assert EngineSettings() == EngineSettings(device="cpu", tf32=False)
    assert SplitSettings() == SplitSettings(global_test=0.2, validation=0.15, test=0.25)
    assert SplitSettings() == SplitSettings(samples=None, path=None)
    assert TransferSettings(policy=PART) == TransferSettings(size=300, path=None, seed=None, data=None, policy=PART)
    assert TransferSettings(policy=PART).source.target == "fedfuse.data.transfer_sets.held_out"
    assert configuration().tracking == configuration().corruption == configuration().audit == ()


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        configuration().seed = 1


def test_file_gives_back_an_equal_configuration():
    written = configuration(
        seed=2**70,
        fraction=1e-4,
        output="a directory: 'with' \"quotes\" # and more, é",
        privacy=(PART,),
        tracking=(PART, PART),
        corruption=(PART,),
        audit=(PART,),
        transfer=TransferSettings(path="a transfer set: é.npz", seed=3, data=PART, source=PART, policy=PART),
        split=SplitSettings(global_test="official", path="a split.json"),
        engine=EngineSettings(name="ray", runner="sequential", workers=3),
        share_facts=(),
        strategy=Component("two", "package.Two", {"text": "1e-3", "empty": "", "yes": "yes"}),
    )
    read = from_yaml(to_yaml(written))
    assert read == written
    assert isinstance(read.model, tuple)
    assert isinstance(read.share_facts, tuple)
    assert isinstance(read.tracking, tuple)
    assert read.strategy.arguments["text"] == "1e-3"


def test_plain_values_make_the_configuration():
    assert from_mapping(plain()) == configuration()


def test_files_from_before_there_were_trackers_engines_transfer_files_and_other_sources_can_still_be_read():
    values = plain()
    del values["tracking"], values["corruption"], values["audit"]
    for name in ("path", "seed", "data", "source"):
        del values["transfer"][name]
    for name in ("samples", "path"):
        del values["split"][name]
    for name in ("name", "workers", "address"):
        del values["engine"][name]
    assert from_mapping(values) == configuration()
    assert from_yaml(OmegaConf.to_yaml(values)) == configuration()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"seed": -1}, "seed must be a whole number of at least 0, not -1."),
        ({"seed": True}, "seed must be a whole number of at least 0, not True."),
        ({"seed": 1.0}, "seed must be a whole number of at least 0, not 1.0."),
        ({"num_clients": 0}, "num_clients must be a whole number of at least 1, not 0."),
        ({"num_rounds": "3"}, "num_rounds must be a whole number of at least 1, not '3'."),
        ({"min_clients": 0}, "min_clients must be a whole number of at least 1, not 0."),
        ({"min_clients": 5}, "min_clients must be at most num_clients (4), not 5."),
        ({"fraction": 0}, "fraction must be a number above 0 and at most 1, not 0."),
        ({"fraction": 1.01}, "fraction must be a number above 0 and at most 1, not 1.01."),
        ({"fraction": math.nan}, "fraction must be a number above 0 and at most 1, not nan."),
        ({"fraction": "1"}, "fraction must be a number above 0 and at most 1, not '1'."),
        ({"fraction": True}, "fraction must be a number above 0 and at most 1, not True."),
        ({"model": ()}, "model must name at least one model, for example model=[mlp_small]."),
        (
            {"share_facts": ("num_examples", "test_metric")},
            "share_facts[1] must be one of num_examples, label_counts, private_labels, test_metrics, not "
            "'test_metric'. Did you mean 'test_metrics'?",
        ),
        ({"local_baseline": "yes"}, "local_baseline must be true or false, not 'yes'."),
        ({"output": ""}, "output must be text, not ''."),
        ({"output": 3}, "output must be text, not 3."),
    ],
)
def test_value_out_of_range_is_refused(changes, expected):
    with pytest.raises(ConfigurationError) as caught:
        configuration(**changes)
    assert str(caught.value) == expected


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (
            lambda: OptimizerSettings(name="sdg"),
            "name must be one of sgd, adam, adamw, rmsprop, not 'sdg'. Did",
        ),
        (lambda: OptimizerSettings(lr=0), "lr must be a number above 0, not 0."),
        (lambda: OptimizerSettings(lr=math.inf), "lr must be a number above 0, not inf."),
        (lambda: OptimizerSettings(momentum=1), "momentum must be a number from 0 to below 1, not 1."),
        (lambda: OptimizerSettings(momentum=-0.1), "momentum must be a number from 0 to below 1, not -0.1."),
        (lambda: OptimizerSettings(weight_decay=-1), "weight_decay must be a number of at least 0, not -1."),
        (
            lambda: TrainingSettings(0, 1, OptimizerSettings()),
            "epochs must be a whole number of at least 1, not 0.",
        ),
        (
            lambda: TrainingSettings(1, 0, OptimizerSettings()),
            "batch_size must be a whole number of at least 1",
        ),
        (
            lambda: EngineSettings(runner="stack"),
            "runner must be one of auto, sequential, stacked, probe, not 'stack'. Did",
        ),
        (
            lambda: EngineSettings(precision="float16"),
            "precision must be one of float32, float64, not 'float16'.",
        ),
        (
            lambda: EngineSettings(device="cud"),
            "device must be one of auto, cpu, cuda, not 'cud'. Did you mean 'cuda'?",
        ),
        (lambda: EngineSettings(device="cuda", tf32=1), "tf32 must be true or false, not 1."),
        (lambda: EngineSettings(tf32=True), "tf32 is for a CUDA device; device=cpu computes in full precision."),
        (
            lambda: EngineSettings(name="ray", device="auto"),
            "device=auto is for engine=local; engine=ray computes on processors.",
        ),
        (lambda: EngineSettings(threads=0), "threads must be a whole number of at least 1, not 0."),
        (lambda: EngineSettings(timeout=0), "timeout must be a number above 0, not 0."),
        (lambda: EngineSettings(name="rai"), "name must be one of local, ray, not 'rai'. Did you mean 'ray'?"),
        (lambda: EngineSettings(name="ray", workers=0), "workers must be a whole number of at least 1, not 0."),
        (lambda: EngineSettings(name="ray", workers=True), "workers must be a whole number of at least 1, not True."),
        (lambda: EngineSettings(name="ray", workers=1.5), "workers must be a whole number of at least 1, not 1.5."),
        (lambda: EngineSettings(workers=0), "workers must be a whole number of at least 1, not 0."),
        (lambda: EngineSettings(workers="all"), "workers must be a whole number of at least 1, not 'all'."),
        (
            lambda: EngineSettings(device="cuda", workers=2),
            "workers=2 is for device=cpu; one process computes on a CUDA device.",
        ),
        (lambda: EngineSettings(name="ray", address=""), "address must be text, not ''."),
        (lambda: EngineSettings(name="ray", address=6379), "address must be text, not 6379."),
        (
            lambda: EngineSettings(name="ray", runner="stacked"),
            "runner=stacked trains clients together; engine=ray sends them one by one.",
        ),
        (
            lambda: EngineSettings(name="ray", workers=2, address="auto"),
            "workers is for a Ray of the run's own; address names one that is running.",
        ),
        (lambda: TransferSettings(path="", policy=PART), "path must be text, not ''."),
        (lambda: TransferSettings(path=3, policy=PART), "path must be text, not 3."),
        (lambda: TransferSettings(size=0, policy=PART), "size must be a whole number of at least 1, not 0."),
        (lambda: TransferSettings(seed=-1, policy=PART), "seed must be a whole number of at least 0, not -1."),
        (lambda: SplitSettings(samples=0), "samples must be a whole number of at least 1, not 0."),
        (lambda: SplitSettings(path=""), "path must be text, not ''."),
        (
            lambda: SplitSettings(path="a", samples=3),
            "samples draws some of the data; path names a split of all of it.",
        ),
        (lambda: SplitSettings(global_test=1), "global_test must be a number between 0 and 1, not 1."),
        (lambda: SplitSettings(validation=0), "validation must be a number between 0 and 1, not 0."),
        (
            lambda: SplitSettings(validation=0.5, test=0.5),
            "validation (0.5) and test (0.5) together must stay below 1.",
        ),
        (lambda: Component("", "package.One", {}), "name must be text, not ''."),
        (lambda: Component("one", None, {}), "target must be text, not None."),
        (lambda: Component("one", "package.One", []), "arguments must be a mapping, not []."),
    ],
)
def test_inner_value_out_of_range_is_refused(make, expected):
    with pytest.raises(ConfigurationError) as caught:
        make()
    assert str(caught.value).startswith(expected)


def test_bounds_themselves_are_allowed_where_they_are_said_to_be():
    configuration(fraction=1, min_clients=4, num_rounds=1)
    OptimizerSettings(momentum=0, weight_decay=0, lr=10**400)
    EngineSettings(name="ray", runner="auto", workers=1)
    EngineSettings(name="ray", runner="sequential", address="auto")
    EngineSettings(name="local", runner="stacked", workers=8)
    EngineSettings(device="cuda", workers=1)
    EngineSettings(device="auto", tf32=True)


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("learn.optimizer.lr", -1, "learn.optimizer.lr must be a number above 0, not -1."),
        ("absorb.epochs", 0, "absorb.epochs must be a whole number of at least 1, not 0."),
        (
            "learn.optimizer",
            "sgd",
            "learn.optimizer must be a mapping with the keys name, lr, momentum, weight_decay",
        ),
        ("learn.epoch", 3, "Unknown key 'learn.epoch'. Did you mean 'learn.epochs'?"),
        ("sed", 3, "Unknown key 'sed'. Did you mean 'seed'?"),
        ("strategy.target", 3, "strategy.target must be text, not 3."),
        ("model", "one", "model must be a list, for example model=[a,b], not 'one'."),
        ("model", ["one"], "model[0] must be a mapping with the keys name, target, arguments, not 'one'."),
        ("privacy", [{"name": "one"}], "privacy[0].target is missing."),
        ("tracking", [{"name": "one"}], "tracking[0].target is missing."),
        ("tracking", "one", "tracking must be a list, for example tracking=[a,b], not 'one'."),
        ("transfer.path", 3, "transfer.path must be text, not 3."),
        ("engine.name", "rai", "engine.name must be one of local, ray, not 'rai'. Did you mean 'ray'?"),
        ("engine.worker", 3, "Unknown key 'engine.worker'. Did you mean 'engine.workers'?"),
        ("share_facts", "num_examples", "share_facts must be a list"),
        ("split.test", 0.9, "split.validation (0.15) and test (0.9) together must stay below 1."),
    ],
)
def test_errors_in_plain_values_name_the_dotted_key(path, value, expected):
    values = plain()
    *parents, name = path.split(".")
    inner = values
    for parent in parents:
        inner = inner[parent]
    inner[name] = value
    with pytest.raises(ConfigurationError) as caught:
        from_mapping(values)
    assert str(caught.value).startswith(expected)


def test_missing_key_is_named():
    values = plain()
    del values["seed"]
    with pytest.raises(ConfigurationError, match=r"^seed is missing\.$"):
        from_mapping(values)


@pytest.mark.parametrize("text", ["seed: [1", "seed: 3", "- 1", "", "just words"])
def test_text_that_is_no_configuration_is_refused_in_one_line(text):
    with pytest.raises(ConfigurationError) as caught:
        from_yaml(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [-0.1, 1, 1.5, True, "closedform", float("nan")])
def test_a_share_of_rehearsal_that_leaves_nothing_for_the_rest_is_refused(share):
    with pytest.raises(ConfigurationError, match="must be a number from 0 to below 1, or for absorb closed_form, not"):
        TrainingSettings(epochs=1, batch_size=1, optimizer=OptimizerSettings(), rehearse=share)


def test_the_closed_form_is_for_absorb_alone():
    closed_form = dataclasses.replace(TRAINING, rehearse="closed_form")
    assert configuration(absorb=closed_form).absorb.rehearse == "closed_form"
    with pytest.raises(ConfigurationError, match=r"closed_form is for absorb.rehearse\.$"):
        configuration(learn=closed_form)
