import functools
from dataclasses import replace

import pytest
import torch

from fedfuse.assembly import (
    load_federation,
    make_architectures,
    make_audits,
    make_client_settings,
    make_strategy,
)
from fedfuse.audit.canary import Canary
from fedfuse.compatibility import check_audits, check_compatible
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


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["strategy=density_weighted"],
            "Strategy density_weighted sends densities, which the guarantee of gaussian does not cover: that is for "
            "soft_labels.",
        ),
        (["strategy=fedavg", "model=mlp_small"], "Strategy fedavg sends weights, which the guarantee of gaussian"),
        (["strategy=local"], "privacy: gaussian protects what is sent; strategy local sends nothing."),
        (
            ["strategy=oracle", "share_facts=[label_counts]"],
            "Strategy oracle needs label_counts from every client, which the guarantee of gaussian does not cover.",
        ),
    ],
)
def test_what_a_guarantee_does_not_cover_is_refused(overrides, said):
    assert refusal(*overrides, "privacy=[{name: gaussian, sigma: 1}]").startswith(said)


def test_on_ray_private_training_has_no_baseline():
    assert refusal(PRIVATE, "engine=ray").startswith("engine=ray trains the clients of the local-only baseline as priv")


def test_flags_that_do_not_fit_the_transfer_set_are_refused():
    said = refusal("privacy=[{name: swing, likelihood: flags, flags: [400]}]")
    assert said == "flags: 400 is no row of the 40 transfer samples."


def test_an_encoding_of_what_is_not_exchanged_is_refused_but_for_who_exchanges_nothing():
    assert refusal("strategy=fedproto", "encoding=uint8") == (
        "Encoding uint8 is for soft labels; strategy fedproto exchanges prototypes."
    )
    for strategy, encoding in (("local", "uint8"), ("fedproto", "float32")):
        simulation = assemble(compose([*BASE, f"strategy={strategy}", f"encoding={encoding}"]))
        assert simulation.configuration.encoding.name == encoding


def test_an_objective_that_needs_what_does_not_come_back_is_refused():
    assert refusal("strategy=fedproto", "objective=kd") == (
        "Objective kd needs soft_labels; strategy fedproto returns prototypes only."
    )
    assert refusal("strategy=knfu", "objective=prototype") == (
        "Objective prototype needs prototypes; strategy knfu returns soft_labels only."
    )
    assert refusal("strategy=fedmd", "objective=rkd") == (
        "Objective rkd needs relations; strategy fedmd returns soft_labels only."
    )


@pytest.mark.parametrize("objective", ["rkd", "kd", "relational"])
def test_relations_and_soft_labels_are_learnt_from_together_or_by_themselves(objective):
    assemble(compose([*BASE, "strategy=relational", f"objective={objective}"]))


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


def test_an_objective_is_refused_that_finds_all_it_needs_nowhere():
    overrides = ["model=mlp_small", "share_facts=[num_examples,private_labels]", "objective=class_relation"]
    assert refusal("strategy=fedgkt", *overrides) == (
        "Objective class_relation needs known_classes, own_soft_labels, soft_labels of the same samples; strategy "
        "fedgkt returns private_soft_labels, which are of others."
    )


def test_a_term_of_labels_alone_is_refused_because_every_client_learns_from_them_anyway():
    assert refusal("strategy=fedmd", "objective=sum", "objective.terms=[kd,cross_entropy]") == (
        "Objective sum has a term that learns from labels alone, as every client does without it."
    )


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
        "relations, soft_labels, weights."
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


# -- lessons, rehearsal and second heads -------------------------------------------------------------------------------


def accepted(*overrides):
    """Check that the parts of a configuration fit together, without its one data set being loaded again."""
    configuration = compose([*BASE, *overrides])
    settings = make_client_settings(configuration, federation().shared)
    architectures = make_architectures(configuration, federation().shared)
    check_compatible(configuration, make_strategy(configuration.strategy), settings, architectures)


MLP = "model=mlp_small"
RETURNS = [("fedproto", "prototypes"), ("fedavg", "weights"), ("fedhkd", "class_logits, prototypes")]


@pytest.mark.parametrize("lesson", ["margin", "where_better", "gap_mixture", "partial_mixup"])
@pytest.mark.parametrize(("strategy", "returns"), RETURNS)
def test_a_lesson_is_refused_where_no_soft_labels_come_back(lesson, strategy, returns):
    assert refusal(f"strategy={strategy}", MLP, f"transfer.lesson=[{lesson}]") == (
        f"Lesson {lesson} is about fused soft labels; strategy {strategy} returns {returns}."
    )


@pytest.mark.parametrize(
    ("objective", "name"),
    [
        (["objective=dist"], "dist"),
        (["objective=sp"], "sp"),
        (["objective=sum", "objective.terms=[kd,dist]"], "sum"),
        (["objective=standardised", "objective.loss=dist"], "standardised"),
    ],
)
def test_weights_of_samples_are_refused_for_an_objective_that_judges_batches(objective, name):
    assert refusal("strategy=fedmd", *objective, "transfer.lesson=[where_better,margin]") == (
        f"Lesson margin weighs samples; objective {name} judges batches as a whole."
    )
    accepted("strategy=fedmd", *objective, "transfer.lesson=[where_better,partial_mixup]")
    accepted("strategy=fedmd", "objective=sum", "objective.terms=[kd,mse]", "transfer.lesson=[margin]")


@pytest.mark.parametrize(("objective", "name"), [("rkd", "rkd"), ("relational", "relational")])
def test_new_samples_are_refused_for_an_objective_of_relations(objective, name):
    assert refusal("strategy=relational", f"objective={objective}", "transfer.lesson=[partial_mixup]") == (
        f"Lesson partial_mixup makes new samples; objective {name} needs relations, which are known of transfer "
        "samples only."
    )
    accepted("strategy=relational", "objective=kd", "transfer.lesson=[partial_mixup]")
    accepted("strategy=relational", f"objective={objective}", "transfer.lesson=[where_better]")


def test_a_mixture_by_domain_is_refused_for_a_transfer_set_without_domains():
    lesson = "transfer.lesson=[margin,{name: gap_mixture, by: domain}]"
    assert refusal("strategy=fedmd", lesson) == ("Lesson gap_mixture mixes by domain; the transfer set has none.")
    accepted("strategy=fedmd", "transfer.lesson=[gap_mixture]")
    configuration, shared = compose([*BASE, "strategy=fedmd", lesson]), federation().shared
    shared = replace(shared, transfer=replace(shared.transfer, domains=torch.arange(len(shared.transfer)) % 3))
    settings = make_client_settings(configuration, shared)
    check_compatible(
        configuration, make_strategy(configuration.strategy), settings, make_architectures(configuration, shared)
    )
    # Clients who are taught nothing have no lessons.
    accepted("strategy=local", lesson)


@pytest.mark.parametrize("name", ["prior_corrected", "nearest_prototype"])
def test_a_predictor_that_tells_labels_is_refused_for_sharing_alone(name):
    for strategy in ("fedmd", "local"):
        assert refusal(f"strategy={strategy}", f"predictor.share={name}") == (
            f"Predictor {name} tells which classes a client has, or how often: use it for predictor.personal, not for "
            "predictor.share."
        )
    accepted("strategy=fedmd", f"predictor.personal={name}", f"predictor.general={name}")


@pytest.mark.parametrize(("verb", "share"), [("learn", "0.5"), ("absorb", "0.25"), ("absorb", "closed_form")])
@pytest.mark.parametrize(("strategy", "returns"), RETURNS)
def test_rehearsal_is_refused_where_no_soft_labels_come_back(verb, share, strategy, returns):
    assert refusal(f"strategy={strategy}", MLP, f"{verb}.rehearse={share}") == (
        f"{verb}.rehearse={share} learns from labels and fused soft labels at once; strategy {strategy} returns "
        f"{returns}."
    )
    accepted("strategy=fedmd", f"{verb}.rehearse={share}")


@pytest.mark.parametrize(("strategy", "returns"), [*RETURNS[:2], ("fedgen", "generated"), ("feddf", "weights")])
def test_a_second_head_is_refused_where_nothing_comes_back_that_trains_it(strategy, returns):
    assert refusal(f"strategy={strategy}", MLP, "predictor=two_heads") == (
        f"Predictor two_heads needs a second head, which strategy {strategy} trains with nothing: it returns {returns}."
    )


@pytest.mark.parametrize("role", ["share", "personal", "general"])
@pytest.mark.parametrize("predictor", ["fused_head", "two_heads"])
def test_whoever_asks_the_second_head_is_refused_by_name(role, predictor):
    assert refusal("strategy=fedproto", f"predictor.{role}={predictor}") == (
        f"Predictor {predictor} needs a second head, which strategy fedproto trains with nothing: it returns "
        "prototypes."
    )


def test_the_head_that_is_corrected_decides_whether_there_must_be_a_second_one():
    assert refusal("strategy=fedproto", "predictor.personal={name: prior_corrected, head: fused}") == (
        "Predictor prior_corrected needs a second head, which strategy fedproto trains with nothing: it returns "
        "prototypes."
    )
    accepted("strategy=fedproto", "predictor.personal=prior_corrected")


@pytest.mark.parametrize(
    ("overrides", "objective", "needs"),
    [
        (["strategy=relational", "objective=rkd"], "rkd", "relations"),
        (["strategy=fedhkd"], "hyper_knowledge", "class_logits, labels, prototypes"),
    ],
)
def test_a_second_head_is_refused_where_the_objective_would_not_train_it(overrides, objective, needs):
    assert refusal(*overrides, "predictor=two_heads") == (
        f"Predictor two_heads needs a second head, which objective {objective} does not train: it learns from {needs}."
    )


@pytest.mark.parametrize(
    "overrides",
    [
        ["strategy=fedmd"],
        ["strategy=relational", "objective=relational"],
        ["strategy=fd"],
        ["strategy=fedgkt", "share_facts=[private_labels]"],
        ["strategy=fedhkd", "objective=sum", "objective.terms=[prototype,class_logits]"],
    ],
)
def test_a_second_head_learns_from_soft_labels_and_from_class_logits(overrides):
    accepted(*overrides, "predictor=two_heads")


@pytest.mark.parametrize(
    "overrides",
    [
        ["learn.rehearse=0.5", "absorb.rehearse=closed_form"],
        ["transfer.lesson=[margin,partial_mixup]"],
        ["predictor=two_heads"],
        ["objective=dist", "transfer.lesson=[margin]"],
        ["objective=rkd", "transfer.lesson=[partial_mixup]", "predictor.general=fused_head"],
        ["objective=prototype"],
        ["transfer/policy=pcoreset"],
    ],
)
def test_clients_that_are_taught_nothing_may_have_any_way_to_learn(overrides):
    accepted("strategy=local", *overrides)


PRIVATE = "privacy=[{name: dp_sgd, epsilon: 4}]"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["learn.rehearse=0.3"],
            "learn.rehearse=0.3 learns from labels beside fused knowledge, outside of the private steps that dp_sgd "
            "accounts: set it to 0.",
        ),
        (
            ["absorb.rehearse=closed_form"],
            "absorb.rehearse=closed_form learns from labels beside fused knowledge, outside of the private steps that "
            "dp_sgd accounts: set it to 0.",
        ),
        (
            ["objective=class_relation"],
            "Objective class_relation looks at which classes a client has, which the guarantee of dp_sgd does not "
            "cover.",
        ),
        (
            ["model=[mlp_small,{name: resnet8, norm: batch}]"],
            "Model resnet8 has batch normalisation, which mixes samples, so that no step of dp_sgd can bound what one "
            "of them changes: use a model with group normalisation, or without.",
        ),
        (
            ["strategy=fedproto"],
            "Strategy fedproto sends prototypes, which the guarantee of dp_sgd does not cover: that is for head, "
            "relations, soft_labels, weights.",
        ),
    ],
)
def test_private_training_refuses_what_learns_from_private_data_beside_its_steps(overrides, said):
    assert refusal(PRIVATE, *overrides) == said


def test_private_training_refuses_knowledge_that_is_learnt_beside_private_data():
    class Returning(KnFu):
        returns = frozenset({"soft_labels", "prototypes"})

    assert refusal(PRIVATE, strategy=Returning()) == (
        "Strategy knfu returns prototypes, to be learnt from beside private data; the private steps of dp_sgd learn "
        "from labels alone."
    )


def test_private_training_is_accounted_before_the_run():
    assert refusal("privacy=[{name: dp_sgd, noise_multiplier: 1}]").startswith(
        "privacy: dp_sgd with noise_multiplier=1 has a privacy loss that depends on how many training examples"
    )
    with pytest.raises(ConfigurationError, match=r"^privacy: dp_sgd has delta=0.1; it must be at most 0.00"):
        assemble(compose([*BASE, "privacy=[{name: dp_sgd, epsilon: 4, delta: 0.1}]"]))
    for allowed in (PRIVATE, "privacy=[{name: dp_sgd, noise_multiplier: 1}]"):
        (protector,) = assemble(compose([*BASE, allowed])).settings.protectors
        assert protector.role == "training"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["audit=[canary]", "engine=ray"],
            "audit=[canary] looks into clients in this process; engine=ray has them elsewhere: use engine=local.",
        ),
        (
            ["audit=[canary]", "engine.workers=2"],
            "audit=[canary] looks into clients in this process; engine.workers=2 has them elsewhere: "
            "use engine.workers=1.",
        ),
        (["audit=[canary,canary]"], "audit=[canary,canary] names an audit twice."),
    ],
)
def test_attacks_that_cannot_be_made_are_refused(overrides, message):
    configuration = compose([*BASE, *overrides])
    with pytest.raises(ConfigurationError) as refused:
        check_audits(configuration, KnFu(), make_audits(configuration))
    assert str(refused.value) == message


class OnSoftLabels(Canary):
    needs = frozenset({"soft_labels"})


def test_an_attack_on_what_is_not_sent_is_refused_with_those_that_fit():
    configuration = compose([*BASE, "strategy=fedproto", "audit=[canary]"])
    strategy = make_strategy(configuration.strategy)
    with pytest.raises(ConfigurationError) as refused:
        check_audits(configuration, strategy, {"theirs": OnSoftLabels(), "canary": Canary()})
    assert str(refused.value) == (
        "Audit theirs attacks soft_labels; strategy fedproto sends prototypes. Those that fit: audit=[canary]."
    )
    with pytest.raises(ConfigurationError, match=r"strategy fedproto sends prototypes\.$"):
        check_audits(configuration, strategy, {"theirs": OnSoftLabels()})
    check_audits(configuration, KnFu(), {"theirs": OnSoftLabels(), "canary": Canary()})


def test_what_follows_former_answers_is_not_covered_by_the_guarantee_of_a_strategy():
    noisy = ["strategy=gnmax", "strategy.sigma=5"]
    for policy in ("class_balanced", "pcoreset"):
        assert refusal(*noisy, f"transfer/policy={policy}") == (
            f"Transfer policy {policy} follows what clients answered before, which the guarantee of strategy gnmax "
            "does not cover: use transfer/policy=all or random_subset."
        )
        assert assemble(compose([*BASE, "strategy=fedmd", f"transfer/policy={policy}"])).strategy
    assert assemble(compose([*BASE, *noisy, "transfer/policy=random_subset"])).promise.is_claimed


class Silent:
    """A transfer policy that does not say whether it looks back."""

    def __call__(self, past, generator):
        return torch.arange(past.num_samples)


def test_a_policy_of_ones_own_that_does_not_say_whether_it_looks_back_is_refused_beside_a_guarantee():
    silent = f"transfer.policy._target_={__name__}.Silent"
    assert "which the guarantee of strategy gnmax does not cover" in refusal(
        "strategy=gnmax", "strategy.sigma=5", silent
    )
    assert assemble(compose([*BASE, "strategy=fedmd", silent])).strategy


def test_a_delta_for_too_many_clients_is_refused_before_the_run():
    assert refusal("strategy=gnmax", "strategy.sigma=5", "strategy.delta=0.25").startswith(
        "privacy: delta=0.25 of gnmax must be below 1/4, one in the number of clients"
    )
