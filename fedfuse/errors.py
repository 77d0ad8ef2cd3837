"""What can go wrong, said to a user: what was wrong, its value, what is allowed, the nearest valid name."""

from collections.abc import Iterable
from difflib import get_close_matches


class FedfuseError(Exception):
    """An error that is shown to the user as one line, without a traceback."""

    exit_code = 1


class ConfigurationError(FedfuseError):
    """A mistake in a configuration: a name, a type, a range, or parts that do not fit together."""

    exit_code = 2


class TooFewClientsError(FedfuseError):
    """Fewer than ``min_clients`` clients gave a valid reply, so the run stops (its checkpoint remains)."""


def unknown_name(kind: str, name: str, allowed: Iterable[str]) -> ConfigurationError:
    """Make the error for a name that does not exist.

    Parameters
    ----------
    kind : str
        What was being named, for example ``"strategy"``.
    name : str
        What the user wrote.
    allowed : Iterable[str]
        All valid names.

    Returns
    -------
    ConfigurationError
        Says the name, the nearest valid one if any is near, and all valid ones.
    """
    names = sorted(allowed)
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return ConfigurationError(f"Unknown {kind} {name!r}.{hint} Valid: {', '.join(names) or 'none'}.")
