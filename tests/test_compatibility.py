import functools
from dataclasses import replace

import pytest

from fedfuse.assembly import load_federation, make_architectures, make_client_settings, make_strategy
from fedfuse.compatibility import check_compatible
from fedfuse.composition import compose
from fedfuse.errors import ConfigurationError
from fedfuse.simulate import assemble
from fedfuse.strategy import FusionStrategy
from strategies.knfu import KnFu

BASE = ["num_clients=4", "num_rounds=1", "learn.epochs=1", "absorb.epochs=1", "transfer.size=40"]


@functools.cache
def federation():
    return load_federation(compose(BASE))


def refusal(*overrides, strategy=None):
    """The error that the parts of a configuration give, without its one data set being loaded again."""
    configuration = compose([*BASE, *overrides])
    settings = make_client_settings(configuration, federation().shared)
    architectures = make_architectures(configuration, federation().shared)
    strategy = strategy or make_strategy(configuration.strategy)
    with pytest.raises(ConfigurationError) as refused:
        check_compatible(configuration, strategy, settings, architectures)
    assert refused.value.exit_code == 2
    return str(refused.value)


@pytest.mark.parametrize("strategy", ["knfu", "fedmd", "fedproto", "local", "fedavg"])
def test_every_shipped_strategy_fits_its_own_defaults(strategy):
    overrides = ["model=mlp_small"] if strategy == "fedavg" else []
    assert type(assemble(compose([*BASE, f"strategy={strategy}", *overrides])).strategy).__module__ == (
        f"strategies.{strategy}"
    )


@pytest.mark.parametrize("protector", ["noise", "swing"])
@pytest.mark.parametrize(
    ("strategy", "model", "sent"), [("fedavg", "mlp_small", "weights"), ("local", "mlp_small", "nothing")]
)
def test_a_protector_of_what_is_not_sent_is_refused(protector, strategy, model, sent):
    assert refusal(f"strategy={strategy}", f"model={model}", f"privacy=[{protector}]") == (
        f"Protector {protector} protects soft_labels; strategy {strategy} sends {sent}."
    )


def test_an_objective_that_needs_what_does_not_come_back_is_refused():
    assert refusal("strategy=fedproto", "objective=kd") == (
        "Objective kd needs soft_labels; strategy fedproto returns prototypes only."
    )
    assert refusal("strategy=knfu", "objective=prototype") == (
        "Objective prototype needs prototypes; strategy knfu returns soft_labels only."
    )


def test_an_objective_that_would_never_use_what_comes_back_is_refused():
    assert refusal("strategy=knfu", "objective=cross_entropy") == (
        "Objective cross_entropy learns from labels; what strategy knfu returns (soft_labels) would never be used."
    )
    assert refusal("strategy=fedproto", "objective=cross_entropy") == (
        "Objective cross_entropy learns from labels; what strategy fedproto returns (prototypes) would never be used."
    )


class LabelledDistillation:
    needs = frozenset({"soft_labels", "labels"})


def test_an_objective_that_needs_labels_of_the_transfer_set_is_refused():
    configuration = compose(BASE)
    settings = replace(make_client_settings(configuration, federation().shared), objective=LabelledDistillation())
    with pytest.raises(ConfigurationError) as refused:
        check_compatible(configuration, KnFu(), settings, make_architectures(configuration, federation().shared))
    assert str(refused.value) == ("Objective kd needs labels; the transfer set that strategy knfu teaches on has none.")


def test_a_strategy_that_needs_more_facts_than_may_travel_is_refused():
    assert refusal("strategy=fedavg", "model=mlp_small", "share_facts=[test_metrics]") == (
        "Strategy fedavg needs num_examples from every client; share_facts=[test_metrics] does not allow it."
    )
    assert refusal("strategy=fedavg", "model=mlp_small", "share_facts=[]") == (
        "Strategy fedavg needs num_examples from every client; share_facts=[] does not allow it."
    )


def test_a_strategy_of_one_architecture_refuses_several():
    assert refusal("strategy=fedavg", "model=[mlp_small,mlp_large,cnn_small]") == (
        "Strategy fedavg needs one architecture for all clients; model has mlp_small, mlp_large, cnn_small. "
        "Name one, for example model=mlp_small."
    )
    # What counts is the architecture, not how often it is named.
    assemble(compose([*BASE, "strategy=fedavg", "model=[mlp_small,mlp_small]"]))


def test_a_strategy_of_one_embedding_size_refuses_several():
    models = "model=[{name: mlp_small, embedding_size: 16},{name: cnn_small, embedding_size: 32}]"
    assert refusal("strategy=fedproto", models) == (
        "Strategy fedproto needs features of one width; model has mlp_small (16), cnn_small (32)."
    )


@pytest.mark.parametrize("attribute", ["sends", "returns"])
def test_a_carrier_that_does_not_exist_is_refused_with_the_nearest_one(attribute):
    strategy = type("Mine", (FusionStrategy,), {attribute: {"soft_label"}})()
    assert refusal(strategy=strategy) == (
        "Unknown carrier of strategy knfu 'soft_label'. Did you mean 'soft_labels'? "
        "Valid: class_logits, densities, generated, head, private_features, private_soft_labels, prototypes, "
        "soft_labels, weights."
    )


@pytest.mark.parametrize("carrier", ["densities", "private_features"])
def test_a_strategy_that_returns_what_clients_only_send_is_refused(carrier):
    strategy = type("Mine", (FusionStrategy,), {"returns": {carrier}})()
    assert refusal(strategy=strategy) == f"Strategy knfu returns {carrier}, from which no client can learn."


@pytest.mark.parametrize("carrier", ["generated", "private_soft_labels"])
def test_a_strategy_that_asks_for_what_only_comes_back_is_refused(carrier):
    strategy = type("Mine", (FusionStrategy,), {"sends": {carrier}})()
    assert refusal(strategy=strategy) == f"Strategy knfu sends {carrier}, which no client can make."


def test_private_features_are_refused_unless_private_labels_may_be_told():
    assert refusal("strategy=fedgkt") == (
        "Strategy fedgkt needs private_labels from every client; "
        "share_facts=[num_examples,test_metrics] does not allow it."
    )
    assemble(compose([*BASE, "strategy=fedgkt", "share_facts=[private_labels]"]))


def test_label_counts_for_a_generator_are_refused_unless_they_may_be_told():
    assert refusal("strategy=fedgen", "strategy.label_counts=true", "share_facts=[]") == (
        "Strategy fedgen needs label_counts from every client; share_facts=[] does not allow it."
    )
    assemble(compose([*BASE, "strategy=fedgen", "share_facts=[]"]))


@pytest.mark.parametrize("strategy", ["fedgen", "fedhkd"])
def test_knowledge_that_enters_at_the_head_is_refused_for_models_without_one(strategy):
    configuration = compose([*BASE, f"strategy={strategy}"])
    shared = federation().shared
    architecture, *_ = make_architectures(configuration, shared)
    headless = replace(architecture, name="mine", has_head=False)
    settings = make_client_settings(configuration, shared)
    with pytest.raises(ConfigurationError) as refused:
        check_compatible(configuration, make_strategy(configuration.strategy), settings, (architecture, headless))
    assert str(refused.value) == (
        f"Strategy {strategy} needs a head in every model: an nn.Linear with a bias, called head, from features to "
        "logits; model has mine, without one."
    )
    others = compose([*BASE, "strategy=fedproto"])
    settings = make_client_settings(others, shared)
    check_compatible(others, make_strategy(others.strategy), settings, (headless,))


def test_soft_labels_of_private_samples_are_learnt_from_with_an_objective_that_needs_soft_labels():
    allowed = "share_facts=[private_labels]"
    assert refusal("strategy=fedgkt", allowed, "objective=prototype") == (
        "Objective prototype needs prototypes; strategy fedgkt returns private_soft_labels only."
    )
    assert refusal("strategy=fedgkt", allowed, "objective=cross_entropy") == (
        "Objective cross_entropy learns from labels; what strategy fedgkt returns (private_soft_labels) would never be "
        "used."
    )


def test_an_oracle_is_refused_unless_label_counts_may_be_told():
    assert refusal("strategy=oracle") == (
        "Strategy oracle needs label_counts from every client; "
        "share_facts=[num_examples,test_metrics] does not allow it."
    )


def test_class_logits_are_learnt_from_with_an_objective_that_needs_them():
    assert refusal("strategy=fd", "objective=kd") == (
        "Objective kd needs soft_labels; strategy fd returns class_logits only."
    )
    assert refusal("strategy=fd", "objective=cross_entropy") == (
        "Objective cross_entropy learns from labels; what strategy fd returns (class_logits) would never be used."
    )


@pytest.mark.parametrize("strategy", ["stacking", "scalearn"])
def test_a_strategy_that_learns_from_labels_is_refused_unless_the_server_is_told_some(strategy):
    assert refusal(f"strategy={strategy}") == (
        f"Strategy {strategy} learns from labels at the server: say how many transfer samples it knows them of, for "
        "example transfer.labelled=100."
    )
    configuration = compose([*BASE, f"strategy={strategy}", "transfer.labelled=5"])
    settings = make_client_settings(configuration, federation().shared)
    architectures = make_architectures(configuration, federation().shared)
    check_compatible(configuration, make_strategy(configuration.strategy), settings, architectures)
