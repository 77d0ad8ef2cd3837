from contextlib import closing

import pytest
import torch

from fedfuse.checkpoint import check_version, load_checkpoint, open_client_states, save_checkpoint
from fedfuse.client.state import ABSORBED, SHARED, ClientState, Generation
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
BEGINNING, LATER = Generation(1, SHARED), Generation(1, ABSORBED)


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


def state_of(value):
    return ClientState(parameters={"weight": torch.tensor(float(value))})


def save_with_clients(directory, server, generation=BEGINNING, value=1):
    """Save a checkpoint with the state of one client."""
    with closing(open_client_states(directory)) as states:
        states.save(7, generation, state_of(value))
        save_checkpoint(directory, server, states.commit)


def newest_in(directory):
    with closing(open_client_states(directory)) as states:
        return states.newest(7)


def test_what_was_saved_is_loaded(tmp_path):
    save_with_clients(tmp_path, SERVER)
    assert same(load_checkpoint(tmp_path, clients_here=True), SERVER)
    with closing(open_client_states(tmp_path)) as states:
        assert states.load(7, BEGINNING).parameters["weight"].item() == 1
    assert files(tmp_path) == ["clients.sqlite", "server.pt"]


def test_clients_that_keep_their_own_state_have_no_file(tmp_path):
    save_checkpoint(tmp_path, SERVER)
    assert same(load_checkpoint(tmp_path, clients_here=False), SERVER)
    assert files(tmp_path) == ["server.pt"]


def test_a_checkpoint_replaces_the_one_before(tmp_path):
    save_with_clients(tmp_path, {"round": 1, "more": 5})
    save_with_clients(tmp_path, {"round": 2}, LATER)
    assert load_checkpoint(tmp_path, clients_here=True) == {"round": 2}
    assert newest_in(tmp_path) == LATER
    assert files(tmp_path) == ["clients.sqlite", "server.pt"]


def test_a_view_does_not_share_memory_with_what_is_loaded(tmp_path):
    relevance = torch.zeros(2)
    save_checkpoint(tmp_path, {"relevance": relevance})
    server = load_checkpoint(tmp_path, clients_here=False)
    relevance.fill_(1)
    assert server["relevance"].tolist() == [0, 0]


def test_an_error_while_writing_leaves_the_old_file_whole(tmp_path):
    save_checkpoint(tmp_path, {"round": 1})
    with pytest.raises(Exception, match="pickle"):
        save_checkpoint(tmp_path, {"round": 2, "large": torch.zeros(10_000), "bad": lambda: None})
    assert load_checkpoint(tmp_path, clients_here=False) == {"round": 1}


@pytest.mark.parametrize("step", ["os.fsync", "pathlib.Path.replace"])
def test_a_full_disk_or_a_stop_before_the_last_step_leaves_the_old_file_whole(tmp_path, monkeypatch, step):
    def stop(*arguments, **keywords):
        raise OSError("no space left")

    save_checkpoint(tmp_path, {"round": 1})
    with monkeypatch.context() as patched, pytest.raises(OSError, match="no space left"):
        patched.setattr(step, stop)
        save_checkpoint(tmp_path, {"round": 2})
    assert load_checkpoint(tmp_path, clients_here=False) == {"round": 1}
    save_checkpoint(tmp_path, {"round": 3})
    assert load_checkpoint(tmp_path, clients_here=False) == {"round": 3}
    assert files(tmp_path) == ["server.pt"]


def test_clients_are_written_before_the_server(tmp_path):
    save_with_clients(tmp_path, {"round": 1})
    with pytest.raises(Exception, match="pickle"):
        save_with_clients(tmp_path, {"round": 2, "bad": lambda: None}, LATER)
    # Clients that are ahead can go back a generation; clients that are behind could not catch up.
    assert load_checkpoint(tmp_path, clients_here=True) == {"round": 1}
    assert newest_in(tmp_path) == LATER


def test_the_server_is_not_written_when_the_clients_cannot_be(tmp_path):
    def fail():
        raise OSError("no space left")

    save_checkpoint(tmp_path, {"round": 1})
    with pytest.raises(OSError, match="no space left"):
        save_checkpoint(tmp_path, {"round": 2}, fail)
    assert load_checkpoint(tmp_path, clients_here=False) == {"round": 1}


def test_states_of_a_run_that_was_stopped_before_its_first_checkpoint_are_not_gone_on_from(tmp_path):
    save_with_clients(tmp_path, SERVER)
    (tmp_path / "checkpoint" / "server.pt").unlink()
    assert newest_in(tmp_path) is None


@pytest.mark.parametrize("present", ["nothing", "the folder", "clients"])
def test_a_missing_checkpoint_is_a_mistake_of_the_user(tmp_path, present):
    if present == "clients":
        save_with_clients(tmp_path, SERVER)
        (tmp_path / "checkpoint" / "server.pt").unlink()
    elif present == "the folder":
        (tmp_path / "checkpoint").mkdir()
    with pytest.raises(ConfigurationError) as caught:
        load_checkpoint(tmp_path, clients_here=present == "clients")
    assert str(caught.value) == f"There is no checkpoint in {tmp_path}: resume=DIR wants the directory of a run."


def load_all(directory):
    open_client_states(directory).close()
    load_checkpoint(directory, clients_here=True)


@pytest.mark.parametrize("name", ["server.pt", "clients.sqlite"])
@pytest.mark.parametrize(
    "damage", [lambda whole: b"", lambda whole: b"garbage " * 100, lambda whole: whole[: len(whole) // 2]]
)
def test_a_checkpoint_that_cannot_be_read_is_a_mistake_of_the_user_and_stays(tmp_path, name, damage):
    save_with_clients(tmp_path, SERVER)
    path = tmp_path / "checkpoint" / name
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)
    with pytest.raises(ConfigurationError, match=r"The checkpoint in .*checkpoint cannot be read \(\w+\)\.$"):
        load_all(tmp_path)
    assert path.read_bytes() == damaged


def test_a_checkpoint_is_continued_by_the_kind_of_engine_that_wrote_it(tmp_path):
    refusal = "was not made by this kind of engine: resume it there.$"
    save_checkpoint(tmp_path, SERVER)
    with pytest.raises(ConfigurationError, match=refusal):
        open_client_states(tmp_path)
    with pytest.raises(ConfigurationError, match=refusal):
        load_checkpoint(tmp_path, clients_here=True)
    assert files(tmp_path) == ["server.pt"]
    (tmp_path / "checkpoint" / "server.pt").unlink()
    save_with_clients(tmp_path, SERVER)
    with pytest.raises(ConfigurationError, match=refusal):
        load_checkpoint(tmp_path, clients_here=False)


def test_a_checkpoint_of_an_earlier_version_is_refused_in_one_line(tmp_path):
    save_checkpoint(tmp_path, SERVER)
    assert check_version(tmp_path) is None
    (tmp_path / "checkpoint" / "clients.pt").touch()
    with pytest.raises(ConfigurationError) as caught:
        check_version(tmp_path)
    assert str(caught.value) == (
        f"resume={tmp_path}: that run is of an earlier version of fedfuse, which wrote checkpoint/clients.pt, and "
        "cannot be continued. Start it anew."
    )


def test_what_an_earlier_version_left_behind_does_not_matter_once_a_run_has_begun_anew(tmp_path):
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "clients.pt").touch()
    save_with_clients(tmp_path, SERVER)
    assert check_version(tmp_path) is None


class Hostile:
    """Touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (self.path.touch, ())


def test_nothing_but_plain_data_is_loaded(tmp_path):
    save_checkpoint(tmp_path, SERVER)
    touched = tmp_path / "touched"
    torch.save({"round": Hostile(touched)}, tmp_path / "checkpoint" / "server.pt")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_checkpoint(tmp_path, clients_here=False)
    assert not touched.exists()
