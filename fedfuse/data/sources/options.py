"""How a user says what is what in data of their own."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

from fedfuse.errors import ConfigurationError


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is what in data of a user's own; None is found from the content.

    Attributes
    ----------
    label, client, domain : str or None
        The column of the label, of whom a sample is from, and of its domain.
    inputs : tuple[str, ...]
        The column of images or of lists of numbers, or the columns of numbers; none are found from the content.
    image_size : int or None
        Make all images squares of so many pixels a side.
    grey : bool or None
        Make all images grey, or all coloured; None makes them grey if all are.
    standardize : bool
        Standardise tables of features by column.

    Raises
    ------
    ConfigurationError
        If a value is of another type.
    """

    label: str | None = None
    inputs: tuple[str, ...] = ()
    client: str | None = None
    domain: str | None = None
    image_size: int | None = None
    grey: bool | None = None
    standardize: bool = True

    def __post_init__(self) -> None:
        for name in ("label", "client", "domain"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value):
                raise ConfigurationError(f"data.{name} must be the name of a column, not {value!r}.")
        if not all(isinstance(name, str) and name for name in self.inputs):
            raise ConfigurationError(f"data.inputs must be names of columns, not {list(self.inputs)!r}.")
        size = self.image_size
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
            raise ConfigurationError(f"data.image_size must be a whole number of at least 1, not {size!r}.")
        if self.grey is not None and not isinstance(self.grey, bool):
            raise ConfigurationError(f"data.grey must be true, false or null, not {self.grey!r}.")
        if not isinstance(self.standardize, bool):
            raise ConfigurationError(f"data.standardize must be true or false, not {self.standardize!r}.")

    def refuse(self, names: Sequence[str], reason: str) -> None:
        """Refuse options that mean nothing for the data at hand.

        Raises
        ------
        ConfigurationError
            At the first of ``names`` that is set.
        """
        defaults = {field.name: field.default for field in fields(self)}
        for name in names:
            if getattr(self, name) != defaults[name]:
                raise ConfigurationError(f"data.{name} is set, but {reason}.")


def names_of(inputs: str | Sequence[str] | None) -> tuple[str, ...]:
    """List the columns of ``data.inputs``: one name, a list of names, or none.

    Raises
    ------
    ConfigurationError
        If it is something else.
    """
    if inputs is None:
        return ()
    if isinstance(inputs, str):
        return (inputs,)
    if not isinstance(inputs, Sequence):
        raise ConfigurationError(f"data.inputs must be names of columns, not {inputs!r}.")
    return tuple(inputs)
