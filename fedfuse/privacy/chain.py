"""A chain of protectors: which order is sound, what all of it promises, and how a client states what it did."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from fedfuse.configuration import Component
from fedfuse.errors import ConfigurationError
from fedfuse.privacy.clip import diameter
from fedfuse.privacy.exposure import Exposure
from fedfuse.privacy.guarantee import Guarantee
from fedfuse.privacy.protector import Protector


def check_chain(components: Sequence[Component], protectors: Sequence[Protector]) -> None:
    """Refuse an order in which a step voids what another one promises.

    Parameters
    ----------
    components, protectors : Sequence
        What was configured, for its names, and what was built of it.

    Raises
    ------
    ConfigurationError
        At the first two steps that do not fit together.
    """
    before: dict[str, str] = {}
    for component, protector in zip(components, protectors, strict=True):
        name, role = component.name, protector.role
        if role == "training" and before:
            raise ConfigurationError(
                f"privacy: {name} protects what is learnt, before anything is sent: put it first, not after "
                f"{', '.join(before.values())}."
            )
        mechanism_follows = "mechanism" not in before and any(one.role == "mechanism" for one in protectors)
        noised = before.get("mechanism") or before.get("heuristic")
        if role == "bound" and noised is not None and not mechanism_follows:
            raise ConfigurationError(
                f"privacy: {name} after {noised} bounds the noise, not what it must hide: put {name} before {noised}."
            )
        if role == "heuristic" and "bound" in before and mechanism_follows:
            raise ConfigurationError(
                f"privacy: {name} between {before['bound']} and the noise undoes the bound that the noise relies on: "
                f"put {name} before {before['bound']}, or last."
            )
        if role == "mechanism" and "mechanism" in before:
            raise ConfigurationError(
                f"privacy: {before['mechanism']} and {name} both draw accounted noise: use one of them."
            )
        covered = before.get("mechanism") or before.get("training")
        if protector.uses_private_data and covered is not None:
            raise ConfigurationError(
                f"privacy: {name} looks at private data that {covered} does not cover, and voids its guarantee."
            )
        before[role] = name


def with_radii(protectors: Sequence[Protector]) -> Iterator[tuple[Protector, float | None]]:
    """Go through the steps, each with the radius that the step right before it keeps soft labels within, if any."""
    radius: float | None = None
    for protector in protectors:
        yield protector, radius
        radius = getattr(protector, "radius", None) if protector.role == "bound" else None


def guarantees_of(protectors: Sequence[Protector], exposure: Exposure, num_rounds: int) -> list[Guarantee]:
    """State what each step promises of all that leaves a client in so many rounds.

    Each holds on its own: what comes after a mechanism never sees private data again, so it takes nothing away.
    """
    return [
        protector.guarantee(
            exposure if radius is None else replace(exposure, sensitivity=diameter(radius, exposure.num_classes)),
            num_rounds,
        )
        for protector, radius in with_radii(protectors)
    ]


def check_not_prolonged(components: Sequence[Component], before: int, now: int) -> None:
    """Refuse more rounds than those that noise was calibrated to.

    Raises
    ------
    ConfigurationError
        If a step has a target for epsilon, and there are more rounds ``now`` than ``before``.
    """
    calibrated = [component.name for component in components if component.arguments.get("epsilon") is not None]
    if calibrated and now > before:
        raise ConfigurationError(
            f"num_rounds={now}, but the noise of {', '.join(calibrated)} was calibrated to {before} rounds: more of "
            "them would exceed its epsilon. Start a new run."
        )


def promises(protectors: Sequence[Protector]) -> bool:
    """Tell whether any step backs a guarantee."""
    return any(protector.role in ("training", "mechanism") for protector in protectors)


def record_of(components: Sequence[Component], secure: bool) -> str:
    """Write what a chain does to knowledge: what a client sends along, and the server compares with its own.

    Empty without protectors, so that nothing travels where nothing is protected.
    """
    if not components:
        return ""
    steps = [
        f"{component.name}({', '.join(f'{key}={component.arguments[key]!r}' for key in sorted(component.arguments))})"
        for component in components
    ]
    return f"{' > '.join(steps)}; draws: {'system' if secure else 'seed'}"
