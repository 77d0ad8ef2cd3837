import torch

from fedfuse.encoding.uint8 import uint8
from fedfuse.knowledge import Fused
from fedfuse.waiting import Waiting


def common(value):
    return Fused.for_all(weights={"w": torch.tensor([float(value)])})


def personal(**values):
    return Fused.for_each(
        [int(client[1:]) for client in values], weights={"w": torch.tensor([[float(v)] for v in values.values()])}
    )


def waits(waiting, client):
    round, carriers = waiting.newest_for(client)
    return (round, None if carriers is None else float(carriers["weights"]["w"]))


def test_waiting_gives_each_client_the_newest_that_it_has_not_absorbed():
    waiting = Waiting()
    assert waits(waiting, 0) == (-1, None)
    waiting.put(common(10), 1)
    waiting.put(personal(c0=20, c1=21), 2)
    assert [waits(waiting, client) for client in (0, 1, 2)] == [(2, 20), (2, 21), (1, 10)]
    waiting.confirm(0, 2)
    assert waits(waiting, 0) == (-1, None)  # the older common one is not for client 0 any more
    assert set(waiting.personal) == {1}
    waiting.put(common(30), 3)
    assert [waits(waiting, client) for client in (0, 1, 2)] == [(3, 30), (3, 30), (3, 30)]
    waiting.confirm(1, 2)  # late, for the older one
    assert waits(waiting, 1) == (3, 30)
    waiting.confirm(1, 3)
    waiting.confirm(1, 1)
    assert waits(waiting, 1) == (-1, None)
    waiting.put(Fused(), 4)
    assert waits(waiting, 2) == (3, 30)


def test_what_waits_survives_a_checkpoint(tmp_path):
    waiting = Waiting()
    waiting.put(common(10), 1)
    waiting.put(personal(c0=20, c1=21), 2)
    waiting.confirm(1, 2)
    torch.save(waiting.to_dict(), tmp_path / "waiting.pt")
    loaded = Waiting(**torch.load(tmp_path / "waiting.pt", weights_only=True))
    for client in (0, 1, 2):
        assert waits(loaded, client) == waits(waiting, client)
    assert loaded.absorbed == {1: 2}


def test_a_checkpoint_holds_the_rows_of_a_client_and_not_the_stack_they_came_from(tmp_path):
    waiting = Waiting()
    stack = torch.zeros(100, 50, 10)
    waiting.put(Fused.for_each([3], prototypes={"prototypes": stack}), 1)
    torch.save(waiting.to_dict(), tmp_path / "waiting.pt")
    assert (tmp_path / "waiting.pt").stat().st_size < 50 * 10 * 4 + 4000


def test_soft_labels_wait_as_they_travel():
    encoding = uint8(510, compressed=False)
    soft_labels = torch.tensor([[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]])
    mask = torch.tensor([True, False, True])
    waiting = Waiting()
    waiting.put(
        Fused.for_all(soft_labels={"soft_labels": soft_labels, "mask": mask}, head={"w": soft_labels}), 1, encoding
    )
    round, carriers = Waiting(**waiting.to_dict()).newest_for(0)
    assert round == 1
    assert torch.equal(carriers["head"]["w"], soft_labels)
    assert {name: tensor.tolist() for name, tensor in carriers["soft_labels"].items()} == {
        "code": [1, 0, 0, 0],
        "rows": [0b101],
    }


def test_what_is_left_waiting_no_longer_holds_what_all_others_got():
    waiting = Waiting()
    stack = torch.rand(100, 50, 10)
    waiting.put(Fused.for_each(range(100), prototypes={"prototypes": stack}), 1)
    for client in range(99):
        waiting.confirm(client, 1)
    assert waiting.newest_for(99)[1]["prototypes"]["prototypes"].untyped_storage().nbytes() == stack.nbytes
    waiting.keep_what_is_left()
    round, left = waiting.newest_for(99)
    assert round == 1
    assert torch.equal(left["prototypes"]["prototypes"], stack[99])
    assert left["prototypes"]["prototypes"].untyped_storage().nbytes() == 50 * 10 * 4
