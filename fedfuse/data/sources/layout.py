"""What a path holds: parquet files, folders of images, CSV files or NumPy archives, with or without a test part."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from fedfuse.data.sources.image_folder import IMAGE_SUFFIXES
from fedfuse.errors import ConfigurationError

# What the parts of a data set are called; validation tests where nothing else does, and trains where it need not.
TRAIN, VALIDATION, TEST = "train", "validation", "test"
PART_NAMES = {
    "train": TRAIN,
    "training": TRAIN,
    "validation": VALIDATION,
    "valid": VALIDATION,
    "val": VALIDATION,
    "dev": VALIDATION,
    "test": TEST,
    "testing": TEST,
}
MOST_SHOWN = 5


class Format(Enum):
    """The formats that can be read, by the suffix of their files."""

    PARQUET = ".parquet"
    CSV = ".csv"
    ARCHIVE = ".npz"
    IMAGES = "images"


@dataclass(frozen=True)
class Layout:
    """What a path holds.

    Attributes
    ----------
    format : Format
        What the files are.
    train, test : tuple[Path, ...]
        The files of each part; of images, the folder that the folders of the classes are in.
    """

    format: Format
    train: tuple[Path, ...]
    test: tuple[Path, ...] = ()


def find_layout(path: Path) -> Layout:
    """Say what a path holds.

    Parameters
    ----------
    path : Path
        A file, or a folder: with files that are named ``train`` and ``test``, as ``train-00000-of-00001.parquet`` is,
        in itself, in ``data/`` or in the only folder that has any; with a single file or one named ``all``; or with
        folders of images, one for each class, in itself or in ``train/`` and ``test/``.

    Raises
    ------
    ConfigurationError
        If it holds none of these; says what was found.
    """
    if path.is_file():
        return _of_file(path)
    layout = _of_files(path, Format.PARQUET) or _of_images(path)
    layout = layout or _of_files(path, Format.CSV) or _of_files(path, Format.ARCHIVE)
    if layout is None:
        raise ConfigurationError(
            f"{path} holds {_found(path)}; it must hold train.parquet and test.parquet (or .csv or .npz), "
            "one such file, or a folder of images for each class."
        )
    for file in (*layout.train, *layout.test):
        _check_not_empty(file)
    return layout


def share_parts(parts: Sequence[str]) -> dict[str, bool]:
    """Say of each part of a data set, by its name, whether it is the official test part.

    Validation is for testing where there is no other test part, else it goes with the training part. Names that are not
    those of a part are left out.
    """
    kinds = {name: PART_NAMES[name] for name in parts if name in PART_NAMES}
    test = TEST if TEST in kinds.values() else VALIDATION
    shared = {name: kind == test for name, kind in kinds.items()}
    return dict(sorted(shared.items(), key=lambda item: (item[1], kinds[item[0]] != TRAIN)))


def _of_file(path: Path) -> Layout:
    _check_not_empty(path)
    for kind in (Format.PARQUET, Format.CSV, Format.ARCHIVE):
        if path.suffix.lower() == kind.value:
            return Layout(kind, (path,))
    raise ConfigurationError(f"{path} is none of .parquet, .csv and .npz, nor a folder.")


def _check_not_empty(path: Path) -> None:
    if path.is_file() and not path.stat().st_size:
        raise ConfigurationError(f"{path} is empty.")


def _of_files(folder: Path, kind: Format) -> Layout | None:
    """Find the files of a format, in the folder, in ``data/``, or in the only other folder that has any."""
    files = _files_in(folder, kind)
    if not files:
        others = [other for other in _folders_in(folder) if _files_in(other, kind)]
        if any(other.name == "data" for other in others):
            others = [folder / "data"]
        if others and all(other.name in PART_NAMES for other in others):
            files = [file for other in others for file in _files_in(other, kind)]
            return _share(folder, kind, files, [file.parent.name for file in files])
        if len(others) > 1:
            raise ConfigurationError(
                f"{folder} has {kind.value} files in {_some([other.name for other in others])}; "
                f"say data.path={others[0]} or another."
            )
        if not others:
            return None
        folder, files = others[0], _files_in(others[0], kind)
    names = [file.stem.lower().replace("_", "-").replace(".", "-").partition("-")[0] for file in files]
    return _share(folder, kind, files, names)


def _share(folder: Path, kind: Format, files: Sequence[Path], names: Sequence[str]) -> Layout:
    """Share files out by the name of their part."""
    shared = share_parts(names)
    if not shared:
        single = files if len(files) == 1 else [file for file in files if file.stem.lower() == "all"]
        if len(single) != 1:
            raise ConfigurationError(
                f"{folder} has {_some([file.name for file in files])}: name them train{kind.value} and "
                f"test{kind.value}, or say data.path={files[0]} or another."
            )
        return Layout(kind, tuple(single))
    parts = {
        is_test: tuple(
            file
            for part, its in shared.items()
            if its == is_test
            for file, name in zip(files, names, strict=True)
            if name == part
        )
        for is_test in (False, True)
    }
    # A part for testing alone is all there is.
    return Layout(kind, parts[False], parts[True]) if parts[False] else Layout(kind, parts[True])


def _of_images(folder: Path) -> Layout | None:
    """Find folders of images, of which each is a class."""
    folders = _folders_in(folder)
    shared = share_parts([one.name for one in folders])
    if not any(map(_has_image, folders)):
        return None
    # A class can be called train; then it has images itself.
    if TRAIN not in shared or any(map(_is_image, (folder / TRAIN).iterdir())):
        return Layout(Format.IMAGES, (folder,))
    roots = {
        is_test: tuple(folder / name for name, its in shared.items() if its == is_test) for is_test in (False, True)
    }
    return Layout(Format.IMAGES, roots[False], roots[True])


def _has_image(folder: Path) -> bool:
    return any(map(_is_image, folder.rglob("*")))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def _files_in(folder: Path, kind: Format) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() == kind.value and path.is_file() and not path.name.startswith(".")
    )


def _folders_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _found(folder: Path) -> str:
    return _some(sorted(f"{path.name}/" if path.is_dir() else path.name for path in folder.iterdir())) or "nothing"


def _some(names: Sequence[str]) -> str:
    rest = f" and {len(names) - MOST_SHOWN} more" if len(names) > MOST_SHOWN else ""
    return ", ".join(names[:MOST_SHOWN]) + rest
