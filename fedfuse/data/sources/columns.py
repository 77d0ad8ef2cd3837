"""Which column of a table is what: the label, the inputs, the client, the domain."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum

from fedfuse.data.sources.options import Options
from fedfuse.errors import ConfigurationError, unknown_name

LABEL_NAMES = ("label", "labels", "target", "class", "y", "fine_label")
CLIENT_NAMES = ("user", "client", "client_id", "subject", "writer_id")
DOMAIN_NAMES = ("domain",)
# What pandas writes beside the data: the numbers of the rows.
INDEX_NAMES = ("", "Unnamed: 0", "__index_level_0__")
MOST_NAMED = 20  # in an error, which asks for one of them
MOST_NOTED = 5


class Kind(Enum):
    """What a column holds."""

    IMAGE = "images"
    VECTOR = "lists of numbers"
    NUMBER = "numbers"
    TEXT = "text"
    OTHER = "something else"


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes
    ----------
    name : str
        Its name.
    kind : Kind
        What it holds.
    names : tuple[str, ...] or None
        The names of the numbers in it, where it is a column of classes (``ClassLabel`` on the hub).
    """

    name: str
    kind: Kind
    names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Roles:
    """Which column is what.

    Attributes
    ----------
    kind : Kind
        What the inputs are: IMAGE, VECTOR or NUMBER.
    inputs : tuple[str, ...]
        Their columns; one, unless they are numbers.
    label : str
        The column of the label.
    client, domain : str or None
        The columns of these, where there are any.
    note : str or None
        What was not given and not certain.
    """

    kind: Kind
    inputs: tuple[str, ...]
    label: str
    client: str | None
    domain: str | None
    note: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """All columns that are used."""
        return tuple(name for name in (*self.inputs, self.label, self.client, self.domain) if name is not None)


def find_roles(columns: Sequence[Column], options: Options, where: str) -> Roles:
    """Say which column is what: as given, else by what the columns hold, else by their names.

    Parameters
    ----------
    columns : Sequence[Column]
        All columns of the table, in its order.
    options : Options
        What the user says.
    where : str
        The file, for messages.

    Raises
    ------
    ConfigurationError
        If a column that was named does not exist, or if it cannot be told which is the label or the inputs.
    """
    by_name = {column.name: column for column in columns}
    if len(by_name) < len(columns):
        twice = next(column.name for column in columns if [one.name for one in columns].count(column.name) > 1)
        raise ConfigurationError(f"{where} has two columns {twice!r}.")
    for role, name in _given(options):
        if name not in by_name:
            raise _missing(role, name, by_name, where)
    columns = [column for column in columns if column.name not in INDEX_NAMES or column.name in options.inputs]
    client = options.client or _named(columns, CLIENT_NAMES)
    domain = options.domain or _named(columns, DOMAIN_NAMES)
    left = [column for column in columns if column.name not in (client, domain, *options.inputs)]
    label = options.label or _find_label(left, where)
    left = [column for column in left if column.name != label]
    if options.inputs:
        kind = _check_inputs([by_name[name] for name in options.inputs], where)
        return Roles(kind, options.inputs, label, client, domain)
    kind, inputs = _find_inputs(left, where)
    return Roles(kind, inputs, label, client, domain, _note(kind, inputs, label, left, where))


def check_columns(columns: Sequence[Column], roles: Roles, where: str) -> None:
    """Check that another part of the same table has all columns that are used.

    Raises
    ------
    ConfigurationError
        If one is missing.
    """
    own = [column.name for column in columns]
    for name in roles.names:
        if name not in own:
            raise unknown_name(f"column of {where}", name, own)


def _given(options: Options) -> list[tuple[str, str]]:
    single = (("label", options.label), ("client", options.client), ("domain", options.domain))
    given = [(role, name) for role, name in single if name is not None]
    return given + [("inputs", name) for name in options.inputs]


def _missing(role: str, name: str, valid: Sequence[str] | dict[str, Column], where: str) -> ConfigurationError:
    near = get_close_matches(name, valid, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return ConfigurationError(f"data.{role}={name}: {where} has no such column.{hint} It has {_list(list(valid))}.")


def _named(columns: Sequence[Column], names: Sequence[str]) -> str | None:
    """Find the first column that has one of some names, in whatever case."""
    for name in names:
        for column in columns:
            if column.name.lower() == name and column.kind in (Kind.NUMBER, Kind.TEXT):
                return column.name
    return None


def _find_label(columns: Sequence[Column], where: str) -> str:
    classes = [column for column in columns if column.names is not None]
    if len(classes) == 1:
        return classes[0].name
    named = _named(classes or columns, LABEL_NAMES)
    if named is not None:
        return named
    texts = [column.name for column in columns if column.kind is Kind.TEXT]
    if len(columns) > 1 and texts == [columns[-1].name]:
        return texts[0]
    raise ConfigurationError(
        f"Which column of {where} is the label? Say data.label=NAME, one of {_list([one.name for one in columns])}."
    )


def _find_inputs(columns: Sequence[Column], where: str) -> tuple[Kind, tuple[str, ...]]:
    for kind in (Kind.IMAGE, Kind.VECTOR):
        found = [column.name for column in columns if column.kind is kind]
        if len(found) > 1:
            raise ConfigurationError(
                f"{where} has several columns of {kind.value}: say data.inputs=NAME, one of {_list(found)}."
            )
        if found:
            return kind, tuple(found)
    numbers = tuple(column.name for column in columns if column.kind is Kind.NUMBER and column.names is None)
    if not numbers:
        others = [column.name for column in columns]
        raise ConfigurationError(
            f"{where} has no column of images, lists of numbers or numbers beside the label; it has {_list(others)}."
        )
    return Kind.NUMBER, numbers


def _check_inputs(columns: Sequence[Column], where: str) -> Kind:
    kinds = {column.kind for column in columns}
    if kinds == {Kind.NUMBER} or (len(columns) == 1 and kinds <= {Kind.IMAGE, Kind.VECTOR}):
        return columns[0].kind
    found = ", ".join(f"{column.name} holds {column.kind.value}" for column in columns[:MOST_NAMED])
    raise ConfigurationError(
        f"data.inputs must be one column of images, one of lists of numbers, or columns of numbers; in {where} {found}."
    )


def _note(kind: Kind, inputs: Sequence[str], label: str, left: Sequence[Column], where: str) -> str | None:
    """Say what was taken for the inputs where these are many columns, and what was left out."""
    if kind is not Kind.NUMBER:
        return None
    unused = [column.name for column in left if column.name not in inputs]
    rest = f"; not used: {_list(unused, MOST_NOTED)}" if unused else ""
    return f"{where}: the label is {label!r}, the inputs are {_list(inputs, MOST_NOTED)}{rest}."


def _list(names: Sequence[str], most: int = MOST_NAMED) -> str:
    shown = ", ".join(repr(name) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
