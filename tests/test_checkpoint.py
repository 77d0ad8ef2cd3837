import pytest
import torch

from fedfuse.checkpoint import load_checkpoint, save_checkpoint
from fedfuse.errors import ConfigurationError

SERVER = {
    "round": 3,
    "seed": 2**63,
    "relevance": torch.tensor([[0.1, 0.9]], dtype=torch.float64),
    "waiting": {
        "common": None,
        "absorbed": {4: 2},
        "personal": {7: (1, {"soft_labels": {"mask": torch.tensor([True])}})},
    },
    "left_out": [(4, "share", "gave no reply in time")],
}
CLIENTS = {"clients": {0: [(1, 0, {"bias": torch.tensor([1.5, -0.0, 1e-45])})]}}


def same(one, other):
    """Whether two nested values are equal, tensors bitwise."""
    if isinstance(one, torch.Tensor):
        return (
            one.dtype == other.dtype and one.shape == other.shape and one.numpy().tobytes() == other.numpy().tobytes()
        )
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


def files(directory):
    return sorted(path.name for path in (directory / "checkpoint").iterdir())


def test_what_was_saved_is_loaded(tmp_path):
    save_checkpoint(tmp_path, SERVER, CLIENTS)
    server, clients = load_checkpoint(tmp_path)
    assert same(server, SERVER)
    assert same(clients, CLIENTS)
    assert files(tmp_path) == ["clients.pt", "server.pt"]


def test_clients_that_keep_their_own_state_have_no_file(tmp_path):
    save_checkpoint(tmp_path, SERVER, None)
    server, clients = load_checkpoint(tmp_path)
    assert same(server, SERVER)
    assert clients is None
    assert files(tmp_path) == ["server.pt"]


def test_a_checkpoint_replaces_the_one_before(tmp_path):
    save_checkpoint(tmp_path, {"round": 1, "more": 5}, {"clients": {0: 1}})
    save_checkpoint(tmp_path, {"round": 2}, {"clients": {0: 2}})
    assert load_checkpoint(tmp_path) == ({"round": 2}, {"clients": {0: 2}})
    assert files(tmp_path) == ["clients.pt", "server.pt"]


def test_a_view_does_not_share_memory_with_what_is_loaded(tmp_path):
    relevance = torch.zeros(2)
    save_checkpoint(tmp_path, {"relevance": relevance}, None)
    server, _ = load_checkpoint(tmp_path)
    relevance.fill_(1)
    assert server["relevance"].tolist() == [0, 0]


def test_an_error_while_writing_leaves_the_old_file_whole(tmp_path):
    save_checkpoint(tmp_path, {"round": 1}, {"clients": 1})
    with pytest.raises(Exception, match="pickle"):
        save_checkpoint(tmp_path, {"round": 2, "large": torch.zeros(10_000), "bad": lambda: None}, None)
    assert load_checkpoint(tmp_path) == ({"round": 1}, {"clients": 1})


@pytest.mark.parametrize("step", ["os.fsync", "pathlib.Path.replace"])
def test_a_full_disk_or_a_stop_before_the_last_step_leaves_the_old_file_whole(tmp_path, monkeypatch, step):
    def stop(*arguments, **keywords):
        raise OSError("no space left")

    save_checkpoint(tmp_path, {"round": 1}, {"clients": 1})
    with monkeypatch.context() as patched, pytest.raises(OSError, match="no space left"):
        patched.setattr(step, stop)
        save_checkpoint(tmp_path, {"round": 2}, {"clients": 2})
    assert load_checkpoint(tmp_path) == ({"round": 1}, {"clients": 1})
    save_checkpoint(tmp_path, {"round": 3}, {"clients": 3})
    assert load_checkpoint(tmp_path) == ({"round": 3}, {"clients": 3})
    assert files(tmp_path) == ["clients.pt", "server.pt"]


def test_clients_are_written_before_the_server(tmp_path):
    save_checkpoint(tmp_path, {"round": 1}, {"round": 1})
    with pytest.raises(Exception, match="pickle"):
        save_checkpoint(tmp_path, {"round": 2, "bad": lambda: None}, {"round": 2})
    # Clients that are ahead can go back a generation; clients that are behind could not catch up.
    assert load_checkpoint(tmp_path) == ({"round": 1}, {"round": 2})


@pytest.mark.parametrize("present", ["nothing", "the folder", "clients"])
def test_a_missing_checkpoint_is_a_mistake_of_the_user(tmp_path, present):
    if present == "clients":
        save_checkpoint(tmp_path, SERVER, CLIENTS)
        (tmp_path / "checkpoint" / "server.pt").unlink()
    elif present == "the folder":
        (tmp_path / "checkpoint").mkdir()
    with pytest.raises(ConfigurationError) as caught:
        load_checkpoint(tmp_path)
    assert str(caught.value) == f"There is no checkpoint in {tmp_path}: resume=DIR wants the directory of a run."


@pytest.mark.parametrize("name", ["server.pt", "clients.pt"])
@pytest.mark.parametrize(
    "damage", [lambda whole: b"", lambda whole: b"garbage", lambda whole: whole[: len(whole) // 2]]
)
def test_a_checkpoint_that_cannot_be_read_is_a_mistake_of_the_user(tmp_path, name, damage):
    save_checkpoint(tmp_path, SERVER, CLIENTS)
    path = tmp_path / "checkpoint" / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ConfigurationError, match=r"The checkpoint in .*checkpoint cannot be read \(\w+\)\.$"):
        load_checkpoint(tmp_path)


class Hostile:
    """Touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (self.path.touch, ())


@pytest.mark.parametrize("name", ["server.pt", "clients.pt"])
def test_nothing_but_plain_data_is_loaded(tmp_path, name):
    save_checkpoint(tmp_path, SERVER, CLIENTS)
    touched = tmp_path / "touched"
    torch.save({"round": Hostile(touched)}, tmp_path / "checkpoint" / name)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_checkpoint(tmp_path)
    assert not touched.exists()
