import os
import stat
from pathlib import Path

import pytest

from fedfuse.deploy.key_files import KeyFile, create_files, exposure, read_file, replace_files
from fedfuse.errors import ConfigurationError


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def open_umask():
    """Let new files be open to everybody, unless they are created otherwise."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("open_umask")
def test_files_and_missing_directories_get_their_modes(tmp_path):
    directory = tmp_path / "outer" / "inner"
    create_files([KeyFile(directory / "key", b"secret", private=True), KeyFile(directory / "pub", b"known", False)])
    assert (directory / "key").read_bytes() == b"secret"
    assert mode_of(directory / "key") == 0o600
    assert mode_of(directory / "pub") == 0o644
    assert mode_of(directory) == mode_of(directory.parent) == 0o700


@pytest.mark.usefixtures("open_umask")
def test_private_file_is_private_before_it_holds_anything(tmp_path, monkeypatch):
    seen = []
    fdopen = os.fdopen

    def look(descriptor, *others):
        seen.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        return fdopen(descriptor, *others)

    monkeypatch.setattr(os, "fdopen", look)
    create_files([KeyFile(tmp_path / "key", b"secret", private=True)])
    replace_files([KeyFile(tmp_path / "key", b"other", private=True)])
    assert seen == [0o600, 0o600]


def test_public_file_is_readable_whatever_the_umask(tmp_path):
    before = os.umask(0o077)
    try:
        create_files([KeyFile(tmp_path / "pub", b"known", private=False)])
    finally:
        os.umask(before)
    assert mode_of(tmp_path / "pub") == 0o644


def test_existing_file_is_kept_and_what_was_made_before_it_is_removed(tmp_path):
    (tmp_path / "second").write_bytes(b"old")
    files = [KeyFile(tmp_path / name, b"new", private=True) for name in ("first", "second", "third")]
    with pytest.raises(ConfigurationError) as refused:
        create_files(files)
    assert str(refused.value) == f"{tmp_path / 'second'} exists: nothing was changed."
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"second": b"old"}


def test_link_to_nowhere_is_not_written_through(tmp_path):
    (tmp_path / "key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match="exists: nothing was changed"):
        create_files([KeyFile(tmp_path / "key", b"new", private=True)])
    assert not (tmp_path / "elsewhere").exists()


def test_interrupt_leaves_nothing(tmp_path, monkeypatch):
    chmod = Path.chmod

    def interrupt_at_the_second(path, mode):
        if path.name == "second":
            raise KeyboardInterrupt
        chmod(path, mode)

    monkeypatch.setattr(Path, "chmod", interrupt_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        create_files([KeyFile(tmp_path / name, b"new", private=True) for name in ("first", "second")])
    assert list(tmp_path.iterdir()) == []


def test_directory_that_is_a_file_gives_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=r"file/key cannot be written: Not a directory\."):
        create_files([KeyFile(tmp_path / "file" / "key", b"new", private=True)])


def test_replaced_files_are_new_as_a_whole_and_nothing_else_is_left(tmp_path):
    for name in ("key", "pub"):
        (tmp_path / name).write_bytes(b"old")
    old = (tmp_path / "key").open("rb")
    replace_files([KeyFile(tmp_path / "key", b"new", private=True), KeyFile(tmp_path / "pub", b"new", private=False)])
    with old:
        assert old.read() == b"old"  # another file has taken the name; this one was not written to
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"key": b"new", "pub": b"new"}
    assert (mode_of(tmp_path / "key"), mode_of(tmp_path / "pub")) == (0o600, 0o644)


def test_failed_replacement_keeps_the_old_file_and_leaves_no_temporary_one(tmp_path):
    (tmp_path / "key").mkdir()
    with pytest.raises(ConfigurationError, match="cannot be written: Is a directory"):
        replace_files([KeyFile(tmp_path / "key", b"new", private=True)])
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_reading_a_missing_file_gives_one_line(tmp_path):
    with pytest.raises(ConfigurationError) as refused:
        read_file(tmp_path / "key")
    assert str(refused.value) == f"{tmp_path / 'key'} cannot be read: No such file or directory."


@pytest.mark.parametrize(("mode", "open_to_others"), [(0o600, False), (0o400, False), (0o640, True), (0o602, True)])
def test_exposure_is_any_right_of_group_or_others(tmp_path, mode, open_to_others):
    path = tmp_path / "key"
    path.write_bytes(b"secret")
    path.chmod(mode)
    expected = f"{path} is open to others (mode {mode:04o}): chmod 600 {path}"
    assert exposure(path) == (expected if open_to_others else None)
