"""Which parts of a run do not fit together; found before anything starts."""

from fedfuse.carriers.carrier import CARRIERS, ONLY_RETURNED, ONLY_SENT, TAUGHT
from fedfuse.client.client import ClientSettings
from fedfuse.configuration import Configuration
from fedfuse.errors import ConfigurationError, unknown_name
from fedfuse.models.architecture import Architecture
from fedfuse.objectives.objective import HeadObjective
from fedfuse.strategy import FusionStrategy


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
    for component, protector in zip(configuration.privacy, settings.protectors, strict=True):
        if protector.carrier not in strategy.sends:
            sent = ", ".join(sorted(strategy.sends)) or "nothing"
            raise ConfigurationError(
                f"Protector {component.name} protects {protector.carrier}; strategy {name} sends {sent}."
            )
    teaches = TAUGHT.keys() & set(strategy.returns)
    taught = {TAUGHT[carrier] for carrier in teaches}
    missing = settings.objective.needs - taught - {"labels"}
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
    if "soft_labels" in strategy.returns and "labels" in settings.objective.needs:
        raise ConfigurationError(
            f"Objective {configuration.objective.name} needs labels; the transfer set that strategy {name} teaches "
            "on has none."
        )
    untold = set(strategy.needs) - settings.share_facts
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
    learns_at_head = bool(teaches) and isinstance(settings.objective, HeadObjective)
    if headless and (learns_at_head or "head" in {*strategy.sends, *strategy.returns}):
        raise ConfigurationError(
            f"Strategy {name} needs a head in every model: an nn.Linear with a bias, called head, from features to "
            f"logits; model has {', '.join(headless)}, without one."
        )
