"""Where a data set lies: at the path that was given, or in the folder of data sets that ``FEDFUSE_DATA`` names."""

import os
from difflib import get_close_matches
from pathlib import Path

from fedfuse.errors import ConfigurationError

DATA_FOLDER = "FEDFUSE_DATA"


def find(name: str, path: str | None) -> Path | None:
    """Find a data set: at ``path`` where one is given, else in ``$FEDFUSE_DATA/name``.

    Parameters
    ----------
    name : str
        The name of the data set, which is that of its folder.
    path : str or None
        Where the user says it is: a file or a folder.

    Returns
    -------
    Path or None
        Where it is; None if no path was given and it is not in the folder of data sets either.

    Raises
    ------
    ConfigurationError
        If there is nothing at ``path``, or ``FEDFUSE_DATA`` is set and no folder.
    """
    if path is not None:
        return existing(path)
    folder = os.environ.get(DATA_FOLDER)
    if not folder:
        return None
    if not Path(folder).is_dir():
        raise ConfigurationError(f"{DATA_FOLDER}={folder} is no folder.")
    found = Path(folder) / name
    return found if found.exists() else None


def require(name: str, path: str | None, content: str) -> Path:
    """Find a data set that cannot be fetched from anywhere.

    Parameters
    ----------
    name, path
        As of `find`.
    content : str
        What its folder must hold, and where the set comes from.

    Raises
    ------
    ConfigurationError
        If it is not there.
    """
    found = find(name, path)
    if found is None:
        raise ConfigurationError(
            f"Say data.path=DIR, or put it into $FEDFUSE_DATA/{name}: a folder with {content}; it is not downloaded."
        )
    return found


def existing(path: str) -> Path:
    """Check that there is a file or a folder at a path.

    Raises
    ------
    ConfigurationError
        If not; with the nearest name beside it.
    """
    given = Path(path).expanduser()
    if given.exists():
        return given
    ancestor = given
    while not ancestor.parent.is_dir():
        ancestor = ancestor.parent
    near = get_close_matches(ancestor.name, [other.name for other in ancestor.parent.iterdir()], n=1)
    hint = f" Did you mean {ancestor.with_name(near[0])}?" if near else ""
    raise ConfigurationError(f"There is no {ancestor}.{hint}")
