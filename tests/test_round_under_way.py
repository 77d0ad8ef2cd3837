from dataclasses import replace

import torch

from fedfuse.metrics import LeftOut
from fedfuse.round_under_way import RoundUnderWay


def test_a_round_under_way_survives_a_checkpoint(tmp_path):
    under_way = RoundUnderWay(3, [LeftOut(2, "share", "why")], 10, 20, {"learn": 1.5}, [0, 1], shared=True)
    under_way.relevance, under_way.relevance_clients = torch.eye(2), [0, 1]
    torch.save(under_way.to_dict(), tmp_path / "round.pt")
    loaded = RoundUnderWay.from_dict(torch.load(tmp_path / "round.pt", weights_only=True))
    assert torch.equal(loaded.relevance, under_way.relevance)
    assert replace(loaded, relevance=None) == replace(under_way, relevance=None)


def test_times_add_up_by_name():
    under_way = RoundUnderWay(1)
    under_way.add_seconds({"learn": 1.5, "absorb": 0.5})
    under_way.add_seconds({"learn": 2.0})
    assert under_way.seconds == {"learn": 3.5, "absorb": 0.5}
    for _ in range(2):
        with under_way.timed("round"):
            pass
    assert set(under_way.seconds) == {"learn", "absorb", "round"}
    assert under_way.seconds["round"] > 0
