import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from fedfuse.data.samples import Groups, LabelledData, Samples
from fedfuse.data.sources import cache
from fedfuse.data.sources.cache import MANIFEST, cache_folder, cached
from fedfuse.data.sources.notes import Reading
from fedfuse.errors import ConfigurationError


def made():
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 1, 3, 4), dtype=np.uint8))
    return Reading(
        LabelledData(
            samples=Samples(pixels, torch.tensor([0, 2, 0, 2, 0, 0])),
            class_names=("a", "b", "ü"),
            natural_clients=Groups(("x", "y"), np.array([0, 1, 0, 1, 0, 1])),
            domains=Groups(("p",), np.zeros(6, dtype=np.int64)),
            order=np.array([5, 4, 3, 2, 1, 0]),
            official_test=np.array([False] * 5 + [True]),
        ),
        ("a note",),
    )


def assert_equal(reading, other):
    data, expected = reading.data, other.data
    assert reading.notes == other.notes
    assert torch.equal(data.samples.inputs, expected.samples.inputs)
    assert data.samples.inputs.dtype == expected.samples.inputs.dtype
    assert torch.equal(data.samples.labels, expected.samples.labels)
    assert data.class_names == expected.class_names
    for groups, own in ((data.natural_clients, expected.natural_clients), (data.domains, expected.domains)):
        assert (groups.names, groups.members.tolist()) == (own.names, own.members.tolist())
    assert data.order.tolist() == expected.order.tolist()
    assert data.official_test.tolist() == expected.official_test.tolist()


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source"
    path.write_text("content")
    return path


class Counted:
    """Reads made data and counts how often."""

    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return made()


def entries(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_second_time_nothing_is_read_and_arrays_are_mapped(source, own_cache):
    read = Counted()
    for _ in range(2):
        assert_equal(cached([source], {"a": 1}, read), made())
    assert read.calls == 1
    inputs = cached([source], {"a": 1}, read).data.samples.inputs
    assert str(own_cache) in Path("/proc/self/maps").read_text()
    inputs[0] = 0  # copied on write
    assert_equal(cached([source], {"a": 1}, read), made())
    assert own_cache.stat().st_mode & 0o077 == 0
    assert [path.stat().st_mode & 0o077 for path in own_cache.iterdir()] == [0]


def test_other_options_and_changed_files_are_read_anew(source, tmp_path):
    read = Counted()
    cached([source], {"a": 1}, read)
    cached([source], {"a": 2}, read)
    assert read.calls == 2
    (tmp_path / "other").write_text("content")
    cached([tmp_path / "other"], {"a": 1}, read)
    assert read.calls == 3
    cached([source, tmp_path / "other"], {"a": 1}, read)
    assert read.calls == 4
    source.write_text("CONTENT")
    os.utime(source, ns=(1, 1))
    cached([source], {"a": 1}, read)
    assert read.calls == 5
    source.write_text("CONTENTS")
    os.utime(source, ns=(1, 1))
    cached([source], {"a": 1}, read)
    assert read.calls == 6


def test_another_format_is_read_anew(source, monkeypatch):
    read = Counted()
    cached([source], {}, read)
    monkeypatch.setattr(cache, "FORMAT", cache.FORMAT + 1)
    cached([source], {}, read)
    assert read.calls == 2


def flip(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def state(change):
    def damage(entry):
        manifest = json.loads((entry / MANIFEST).read_text())
        change(manifest)
        (entry / MANIFEST).write_text(json.dumps(manifest))

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        lambda entry: flip(entry / "inputs.npy"),
        lambda entry: cut(entry / "labels.npy"),
        lambda entry: (entry / "clients.npy").unlink(),
        lambda entry: (entry / MANIFEST).unlink(),
        lambda entry: cut(entry / MANIFEST),
        state(lambda manifest: manifest["files"]["inputs"].update(shape=[1])),
        state(lambda manifest: manifest["files"]["inputs"].update(dtype="<f4")),
        state(lambda manifest: manifest.update(class_names=["a"])),
        state(lambda manifest: manifest.update(format=0)),
        state(lambda manifest: manifest.pop("notes")),
    ],
)
def test_damage_is_noticed_and_mended(source, own_cache, damage, capsys):
    read = Counted()
    cached([source], {}, read)
    (entry,) = own_cache.iterdir()
    damage(entry)
    assert_equal(cached([source], {}, read), made())
    assert read.calls == 2
    assert f"fedfuse: note: {entry} is damaged and is made again.\n" in capsys.readouterr().err
    cached([source], {}, read)
    assert read.calls == 2
    assert entries(own_cache) == [entry.name]


def test_a_file_of_another_size_is_noticed_whatever_its_checksum(source, own_cache, monkeypatch):
    monkeypatch.setattr(cache, "_checksum", lambda path: 0)
    read = Counted()
    cached([source], {}, read)
    (entry,) = own_cache.iterdir()
    with (entry / "labels.npy").open("ab") as file:
        file.write(b"x")
    cached([source], {}, read)
    assert read.calls == 2


def test_damage_far_inside_a_large_file_is_noticed_where_blocks_are_summed(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "BYTES_A_BLOCK", 4)
    path = tmp_path / "a"
    path.write_bytes(bytes(4 * cache.NUM_BLOCKS))
    whole = cache._checksum(path)
    sums = set()
    for place in range(0, 4 * cache.NUM_BLOCKS, 4):
        content = bytearray(4 * cache.NUM_BLOCKS)
        content[place] = 1
        path.write_bytes(content)
        sums.add(cache._checksum(path))
    assert whole not in sums


def test_a_cache_that_cannot_be_written_is_said_and_not_needed(source, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FEDFUSE_CACHE", str(tmp_path / "file"))
    assert_equal(cached([source], {}, made), made())
    assert f"note: The cache {tmp_path / 'file'} cannot be written (" in capsys.readouterr().err


def test_a_full_disk_leaves_nothing_behind(source, own_cache, monkeypatch, capsys):
    def full(path, array, allow_pickle):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.np, "save", full)
    assert_equal(cached([source], {}, made), made())
    assert "cannot be written (No space left on device)" in capsys.readouterr().err
    assert entries(own_cache) == []


def test_a_reader_that_fails_leaves_nothing_behind(source, own_cache):
    def fail():
        raise ConfigurationError("no")

    with pytest.raises(ConfigurationError, match="no"):
        cached([source], {}, fail)
    assert not own_cache.exists()


def test_two_that_make_the_same_entry_at_once_both_get_it(source, own_cache, capsys):
    both_read = threading.Barrier(2, timeout=60)

    def read():
        both_read.wait()
        return made()

    readings = []
    threads = [threading.Thread(target=lambda: readings.append(cached([source], {}, read))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(readings) == 2
    for reading in readings:
        assert_equal(reading, made())
    assert len(entries(own_cache)) == 1
    assert capsys.readouterr().err == ""


def test_a_source_that_is_gone_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match="gone cannot be read"):
        cached([tmp_path / "gone"], {}, made)


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("FEDFUSE_CACHE", "/one")
    monkeypatch.setenv("XDG_CACHE_HOME", "/two")
    monkeypatch.setenv("HOME", "/three")
    assert str(cache_folder()) == "/one"
    monkeypatch.delenv("FEDFUSE_CACHE")
    assert str(cache_folder()) == "/two/fedfuse"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert str(cache_folder()) == "/three/.cache/fedfuse"
