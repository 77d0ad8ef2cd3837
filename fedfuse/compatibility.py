"""Which parts of a run do not fit together; found before anything starts."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet

from fedfuse.audit.audit import Audit
from fedfuse.carriers.carrier import CARRIERS, ONLY_RETURNED, ONLY_SENT, TAUGHT
from fedfuse.client.client import ClientSettings
from fedfuse.client.learn import LEARNT_FROM
from fedfuse.client.learn_privately import private_training
from fedfuse.client.protect import covered
from fedfuse.client.teach import OWN_KNOWLEDGE
from fedfuse.components import build
from fedfuse.configuration import Configuration
from fedfuse.errors import ConfigurationError, unknown_name
from fedfuse.models.architecture import Architecture
from fedfuse.objectives.objective import Divisible, Objective, head_part_of, part_for
from fedfuse.predictors.predictor import FUSED_HEAD
from fedfuse.privacy.chain import promises
from fedfuse.privacy.swing import Swing
from fedfuse.strategy import FusionStrategy

# What comes back and says something of transfer samples.
ON_TRANSFER_SAMPLES = frozenset({"soft_labels", "relations"})
# What is learnt with the logits of a model, and so with its second head; all else is about features, or for the first.
ABOUT_ANSWERS = frozenset({"soft_labels", "class_logits"})


def check_compatible(
    configuration: Configuration,
    strategy: FusionStrategy,
    settings: ClientSettings,
    architectures: tuple[Architecture, ...],
) -> None:
    """Refuse parts that do not fit together, naming both sides.

    Raises
    ------
    ConfigurationError
        At the first pair that does not fit.
    """
    name = configuration.strategy.name
    for carrier in sorted({*strategy.sends, *strategy.returns}):
        if carrier not in CARRIERS:
            raise unknown_name(f"carrier of strategy {name}", carrier, CARRIERS)
    for carrier in sorted(ONLY_SENT & set(strategy.returns)):
        raise ConfigurationError(f"Strategy {name} returns {carrier}, from which no client can learn.")
    for carrier in sorted(ONLY_RETURNED & set(strategy.sends)):
        raise ConfigurationError(f"Strategy {name} sends {carrier}, which no client can make.")
    _check_guarantees(configuration, strategy, settings)
    _check_private_training(configuration, strategy, settings, architectures)
    _check_guarantee_of_strategy(strategy, configuration, settings)
    for component, protector in zip(configuration.privacy, settings.protectors, strict=True):
        if protector.role != "training" and protector.carrier not in strategy.sends:
            sent = ", ".join(sorted(strategy.sends)) or "nothing"
            raise ConfigurationError(
                f"Protector {component.name} protects {protector.carrier}; strategy {name} sends {sent}."
            )
        if isinstance(protector, Swing):
            protector.check_transfer(len(settings.transfer))
    exchanged = {*strategy.sends, *strategy.returns}
    # Clients that learn alone exchange nothing, however it would travel: others are compared with them.
    if settings.encoding.compact and exchanged and "soft_labels" not in exchanged:
        raise ConfigurationError(
            f"Encoding {configuration.encoding.name} is for soft labels; strategy {name} exchanges "
            f"{', '.join(sorted(exchanged))}."
        )
    teaches = TAUGHT.keys() & set(strategy.returns)
    taught = {TAUGHT[carrier] for carrier in teaches}
    missing = settings.objective.needs - taught - OWN_KNOWLEDGE - {"labels"}
    if teaches and missing:
        raise ConfigurationError(
            f"Objective {configuration.objective.name} needs {', '.join(sorted(missing))}; strategy {name} returns "
            f"{', '.join(sorted(strategy.returns))} only."
        )
    if teaches and not taught & settings.objective.needs:
        raise ConfigurationError(
            f"Objective {configuration.objective.name} learns from {', '.join(sorted(settings.objective.needs))}; "
            f"what strategy {name} returns ({', '.join(sorted(teaches))}) would never be used."
        )
    on_transfer_set = part_for(settings.objective, OWN_KNOWLEDGE | (taught & ON_TRANSFER_SAMPLES))
    if "soft_labels" in strategy.returns and on_transfer_set is None:
        raise ConfigurationError(
            f"Objective {configuration.objective.name} needs labels; the transfer set that strategy {name} teaches "
            "on has none."
        )
    if teaches:
        _check_is_learnt(configuration, strategy, settings, taught)
    if settings.predictors.share.tells_labels:
        raise ConfigurationError(
            f"Predictor {configuration.predictor.share.name} tells which classes a client has, or how often: use "
            "it for predictor.personal, not for predictor.share."
        )
    # Clients that are taught nothing learn alone, whatever they would do with fused knowledge: others are compared
    # with them as they are.
    if strategy.returns:
        _check_lesson(configuration, strategy, settings, on_transfer_set)
        _check_rehearsal(configuration, strategy)
        _check_fused_head(configuration, strategy, settings, taught)
    untold = set(strategy.needs) - settings.share_facts
    if untold and promises(settings.protectors):
        raise ConfigurationError(
            f"Strategy {name} needs {', '.join(sorted(untold))} from every client, which the guarantee of "
            f"{', '.join(component.name for component in configuration.privacy)} does not cover."
        )
    if untold:
        raise ConfigurationError(
            f"Strategy {name} needs {', '.join(sorted(untold))} from every client; "
            f"share_facts=[{','.join(sorted(settings.share_facts))}] does not allow it."
        )
    if strategy.needs_labels and not configuration.transfer.labelled:
        raise ConfigurationError(
            f"Strategy {name} learns from labels at the server: say how many transfer samples it knows them of, for "
            "example transfer.labelled=100."
        )
    if strategy.one_architecture and len({one.signature for one in architectures}) > 1:
        raise ConfigurationError(
            f"Strategy {name} needs one architecture for all clients; model has "
            f"{', '.join(one.name for one in architectures)}. Name one, for example model={architectures[0].name}."
        )
    if strategy.one_embedding_size and len({one.embedding_size for one in architectures}) > 1:
        raise ConfigurationError(
            f"Strategy {name} needs features of one width; model has "
            f"{', '.join(f'{one.name} ({one.embedding_size})' for one in architectures)}."
        )
    headless = sorted({one.name for one in architectures if not one.has_head})
    learns_at_head = bool(teaches) and head_part_of(settings.objective) is not None
    if headless and (learns_at_head or "head" in {*strategy.sends, *strategy.returns}):
        raise ConfigurationError(
            f"Strategy {name} needs a head in every model: an nn.Linear with a bias, called head, from features to "
            f"logits; model has {', '.join(headless)}, without one."
        )


def _check_guarantees(configuration: Configuration, strategy: FusionStrategy, settings: ClientSettings) -> None:
    """Refuse whatever a guarantee does not cover, and a guarantee for nothing."""
    allowed, name = covered(settings.protectors), configuration.strategy.name
    if allowed is None:
        return
    protected = ", ".join(component.name for component in configuration.privacy)
    if not strategy.sends:
        raise ConfigurationError(f"privacy: {protected} protects what is sent; strategy {name} sends nothing.")
    bare = set(strategy.sends) - allowed
    if bare:
        raise ConfigurationError(
            f"Strategy {name} sends {', '.join(sorted(bare))}, which the guarantee of {protected} does not cover: "
            f"that is for {', '.join(sorted(allowed))}."
        )
    if settings.predictors.share.needs - {FUSED_HEAD} and any(one.role == "training" for one in settings.protectors):
        raise ConfigurationError(
            f"Predictor {configuration.predictor.share.name} answers others with the help of private data, which the "
            f"guarantee of {protected} does not cover: use predictor.share=plain_head."
        )


def _check_private_training(
    configuration: Configuration,
    strategy: FusionStrategy,
    settings: ClientSettings,
    architectures: tuple[Architecture, ...],
) -> None:
    """Refuse whatever learns from private data outside of the private steps, and what they cannot do."""
    protector = private_training(settings)
    if protector is None:
        return
    assert settings.exposure is not None, "a guarantee is for a run of known size"
    protector.check(settings.exposure)
    if configuration.engine.name == "ray" and configuration.local_baseline:
        raise ConfigurationError(
            "engine=ray trains the clients of the local-only baseline as privately as the others, so that it would be "
            "none: use local_baseline=false or engine=local."
        )
    name = next(
        one.name for one, own in zip(configuration.privacy, settings.protectors, strict=True) if own.role == "training"
    )
    for verb, training in (("learn", configuration.learn), ("absorb", configuration.absorb)):
        if training.rehearse:
            raise ConfigurationError(
                f"{verb}.rehearse={training.rehearse} learns from labels beside fused knowledge, outside of the "
                f"private steps that {name} accounts: set it to 0."
            )
    beside = sorted(set(LEARNT_FROM) & set(strategy.returns))
    if beside:
        raise ConfigurationError(
            f"Strategy {configuration.strategy.name} returns {', '.join(beside)}, to be learnt from beside private "
            f"data; the private steps of {name} learn from labels alone."
        )
    if strategy.returns and "known_classes" in settings.objective.needs:
        raise ConfigurationError(
            f"Objective {configuration.objective.name} looks at which classes a client has, which the guarantee of "
            f"{name} does not cover."
        )
    mixing = sorted({one.name for one in architectures if any("BatchNorm" in layer for layer in one.layer_types)})
    if mixing:
        raise ConfigurationError(
            f"Model {', '.join(mixing)} has batch normalisation, which mixes samples, so that no step of {name} can "
            "bound what one of them changes: use a model with group normalisation, or without."
        )


def check_audits(configuration: Configuration, strategy: FusionStrategy, audits: Mapping[str, Audit]) -> None:
    """Refuse attacks that cannot see the clients, or that have nothing to attack.

    Raises
    ------
    ConfigurationError
        At the first one.
    """
    names = ",".join(one.name for one in configuration.audit)
    if audits and configuration.engine.name != "local":
        raise ConfigurationError(
            f"audit=[{names}] looks into clients in this process; engine={configuration.engine.name} has them "
            "elsewhere: use engine=local."
        )
    if audits and configuration.engine.workers not in (None, 1):
        raise ConfigurationError(
            f"audit=[{names}] looks into clients in this process; engine.workers={configuration.engine.workers} has "
            "them elsewhere: use engine.workers=1."
        )
    if len(audits) < len(configuration.audit):
        raise ConfigurationError(f"audit=[{names}] names an audit twice.")
    for name, audit in audits.items():
        missing = sorted(audit.needs - strategy.sends)
        if missing:
            fitting = ",".join(other for other, own in audits.items() if own.needs <= strategy.sends)
            hint = f" Those that fit: audit=[{fitting}]." if fitting else ""
            raise ConfigurationError(
                f"Audit {name} attacks {', '.join(missing)}; strategy {configuration.strategy.name} sends "
                f"{', '.join(sorted(strategy.sends)) or 'nothing'}.{hint}"
            )


def _check_guarantee_of_strategy(
    strategy: FusionStrategy, configuration: Configuration, settings: ClientSettings
) -> None:
    """Refuse a strategy's guarantee that cannot be given, and what clients could see past its noise."""
    exposure = settings.exposure
    if exposure is None or strategy.guarantee(exposure, exposure.num_rounds) is None:
        return
    policy = configuration.transfer.policy
    # A policy of a user's own that does not say may look back.
    if getattr(build(policy, "transfer policy"), "looks_back", True):
        raise ConfigurationError(
            f"Transfer policy {policy.name} follows what clients answered before, which the guarantee of strategy "
            f"{configuration.strategy.name} does not cover: use transfer/policy=all or random_subset."
        )


def _check_is_learnt(
    configuration: Configuration, strategy: FusionStrategy, settings: ClientSettings, taught: AbstractSet[str]
) -> None:
    """Refuse an objective, or a term of one, that clients find nowhere all that it needs of."""
    places: list[AbstractSet[str]] = [{"labels"} | (taught - ON_TRANSFER_SAMPLES)]
    if "soft_labels" in strategy.returns:
        places.append(OWN_KNOWLEDGE | (taught & ON_TRANSFER_SAMPLES))
    if "private_soft_labels" in strategy.returns:
        places.append({"labels", "soft_labels"})
    objective = settings.objective
    for term in objective.terms if isinstance(objective, Divisible) else [objective]:
        if term.needs == {"labels"}:
            raise ConfigurationError(
                f"Objective {configuration.objective.name} has a term that learns from labels alone, as every client "
                "does without it."
            )
        if head_part_of(term) is None and all(part_for(term, place) is None for place in places):
            raise ConfigurationError(
                f"Objective {configuration.objective.name} needs {', '.join(sorted(term.needs))} of the same samples; "
                f"strategy {configuration.strategy.name} returns {', '.join(sorted(strategy.returns))}, which are of "
                "others."
            )


def _check_lesson(
    configuration: Configuration, strategy: FusionStrategy, settings: ClientSettings, objective: Objective | None
) -> None:
    """Refuse lessons for nothing, weights that no loss heeds, and those about domains or relations nobody knows of."""
    for component, step in zip(configuration.transfer.lesson, settings.lesson, strict=True):
        if "soft_labels" not in strategy.returns:
            raise ConfigurationError(
                f"Lesson {component.name} is about fused soft labels; strategy {configuration.strategy.name} returns "
                f"{', '.join(sorted(strategy.returns))}."
            )
        if step.weighs and objective is not None and not objective.per_sample:
            raise ConfigurationError(
                f"Lesson {component.name} weighs samples; objective {configuration.objective.name} judges batches as a "
                "whole."
            )
        if step.needs_domains and settings.transfer.domains is None:
            raise ConfigurationError(f"Lesson {component.name} mixes by domain; the transfer set has none.")
        if step.changes_inputs and objective is not None and "relations" in objective.needs:
            raise ConfigurationError(
                f"Lesson {component.name} makes new samples; objective {configuration.objective.name} needs relations, "
                "which are known of transfer samples only."
            )


def _check_rehearsal(configuration: Configuration, strategy: FusionStrategy) -> None:
    """Refuse to learn from labels and fused soft labels at once where none come back."""
    for verb, training in (("learn", configuration.learn), ("absorb", configuration.absorb)):
        if training.rehearse and "soft_labels" not in strategy.returns:
            raise ConfigurationError(
                f"{verb}.rehearse={training.rehearse} learns from labels and fused soft labels at once; strategy "
                f"{configuration.strategy.name} returns {', '.join(sorted(strategy.returns))}."
            )


def _check_fused_head(
    configuration: Configuration, strategy: FusionStrategy, settings: ClientSettings, taught: AbstractSet[str]
) -> None:
    """Refuse to answer with a second head that would stay as it was drawn."""
    chosen, built = configuration.predictor, settings.predictors
    roles = ((chosen.share, built.share), (chosen.personal, built.personal), (chosen.general, built.general))
    asking = [component.name for component, predictor in roles if FUSED_HEAD in predictor.needs]
    if not asking:
        return
    answers = taught & ABOUT_ANSWERS
    if answers and part_for(settings.objective, OWN_KNOWLEDGE | {"labels"} | answers) is None:
        raise ConfigurationError(
            f"Predictor {asking[0]} needs a second head, which objective {configuration.objective.name} does not "
            f"train: it learns from {', '.join(sorted(settings.objective.needs))}."
        )
    if not answers:
        raise ConfigurationError(
            f"Predictor {asking[0]} needs a second head, which strategy {configuration.strategy.name} trains with "
            f"nothing: it returns {', '.join(sorted(strategy.returns))}."
        )
