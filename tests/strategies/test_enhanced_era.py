import io
import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfuse.composition import compose
from fedfuse.knowledge import KnowledgeBatch
from fedfuse.results import read_metrics
from fedfuse.simulate import simulate
from strategies.enhanced_era import EnhancedERA


def batch(soft_labels, mask=None, round=1):
    number, samples, _ = soft_labels.shape
    mask = torch.ones(number, samples, dtype=torch.bool) if mask is None else mask
    return KnowledgeBatch(tuple(range(number)), round, {"soft_labels": {"soft_labels": soft_labels, "mask": mask}})


def random_soft_labels(*shape, seed=0, size=3.0):
    random = torch.Generator().manual_seed(seed)
    return torch.softmax(size * torch.randn(*shape, generator=random, dtype=torch.float64), dim=2)


def consensus(soft_labels, *arguments, mask=None):
    return EnhancedERA(*arguments).fuse(batch(soft_labels, mask), None).common["soft_labels"]["soft_labels"]


def entropy(soft_labels):
    return torch.special.entr(soft_labels).sum(-1)


def test_soft_labels_travel_both_ways_and_the_exponent_is_that_of_the_method():
    assert EnhancedERA.sends == EnhancedERA.returns == {"soft_labels"}
    assert EnhancedERA.needs == frozenset()
    assert (EnhancedERA().exponent, EnhancedERA().cache_duration, EnhancedERA().space) == (2.0, 0, "probability")


def test_consensus_in_numbers():
    # The mean is (0.6, 0.4); its squares are 0.36 and 0.16.
    soft_labels = torch.tensor([[[0.8, 0.2]], [[0.4, 0.6]]], dtype=torch.float64)
    assert consensus(soft_labels)[0].tolist() == pytest.approx([9 / 13, 4 / 13], abs=1e-14)
    assert consensus(soft_labels, 3.0)[0].tolist() == pytest.approx([27 / 35, 8 / 35], abs=1e-14)


def test_with_an_exponent_of_one_everybody_gets_the_plain_mean():
    soft_labels = random_soft_labels(5, 6, 4)
    fused = EnhancedERA(1.0).fuse(batch(soft_labels), None)
    assert fused.personal == {}
    mean = fused.common["soft_labels"]["soft_labels"]
    torch.testing.assert_close(mean, soft_labels.mean(0), rtol=0, atol=1e-14)
    assert torch.equal(fused.relevance, torch.full((5, 5), 0.2, dtype=torch.float64))


def test_clients_that_agree_get_what_one_would_get_alone():
    soft_labels = random_soft_labels(1, 6, 5)
    expected = soft_labels[0].square() / soft_labels[0].square().sum(1, keepdim=True)
    torch.testing.assert_close(consensus(soft_labels), expected, rtol=0, atol=1e-14)
    torch.testing.assert_close(consensus(soft_labels.expand(7, 6, 5)), expected, rtol=0, atol=1e-14)


def test_an_even_mean_stays_even_and_a_certain_one_certain():
    certain = torch.eye(4, dtype=torch.float64)
    torch.testing.assert_close(consensus(certain.expand(3, 4, 4)), certain, rtol=0, atol=0)
    even = torch.stack([certain.roll(shift, dims=1) for shift in range(4)])
    torch.testing.assert_close(consensus(even), torch.full((4, 4), 0.25).double(), rtol=0, atol=1e-14)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), number=st.integers(1, 8), exponent=st.floats(0.1, 10))
def test_the_order_of_the_classes_stays_and_that_of_the_clients_does_not_matter(seed, number, exponent):
    soft_labels = random_soft_labels(number, 4, 5, seed=seed)
    fused = consensus(soft_labels, exponent)
    torch.testing.assert_close(fused.sum(1), torch.ones(4, dtype=torch.float64), rtol=0, atol=1e-14)
    assert (fused > 0).all()
    assert torch.equal(fused.argsort(1), soft_labels.mean(0).argsort(1))
    order = torch.randperm(number, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(consensus(soft_labels[order], exponent), fused, rtol=0, atol=1e-12)


@pytest.mark.parametrize("classes", [2, 10, 100])
@pytest.mark.parametrize("size", [0.01, 1.0, 5.0])
def test_a_larger_exponent_is_more_decisive_for_any_number_of_classes(classes, size):
    soft_labels = random_soft_labels(3, 6, classes, size=size)
    entropies = [entropy(consensus(soft_labels, exponent)) for exponent in (8.0, 2.0, 1.0, 0.5)]
    assert all((lower < higher).all() for lower, higher in pairwise(entropies))


def test_a_probability_that_rounding_left_below_zero_breaks_nothing():
    soft_labels = torch.tensor([[[0.8, 0.2005, -0.0005]], [[0.6, 0.4, 0.0]]], dtype=torch.float64)
    expected = torch.tensor([0.7**2, 0.30025**2, 0.0], dtype=torch.float64)
    torch.testing.assert_close(consensus(soft_labels)[0], expected / expected.sum(), rtol=0, atol=1e-14)


def test_only_those_who_answered_count_and_rows_without_an_answer_carry_nothing():
    mask = torch.tensor([[True, True, False], [True, False, False]])
    soft_labels = random_soft_labels(2, 3, 4)
    garbage = torch.where(mask.unsqueeze(2), soft_labels, torch.tensor(-7e5, dtype=torch.float64))
    for answers in (soft_labels * mask.unsqueeze(2), garbage):
        fused = EnhancedERA().fuse(batch(answers, mask), None)
        tensors = fused.common["soft_labels"]
        assert tensors["mask"].tolist() == [True, True, False]
        squares = torch.stack([soft_labels[:, 0].mean(0), soft_labels[0, 1], torch.full((4,), 0.25).double()]).square()
        expected = squares / squares.sum(1, keepdim=True)
        torch.testing.assert_close(tensors["soft_labels"], expected, rtol=0, atol=1e-14)
        # Who answered twice as often was listened to twice as much.
        torch.testing.assert_close(fused.relevance, torch.tensor([[2 / 3, 1 / 3]] * 2, dtype=torch.float64))


def test_single_precision_stays_single_precision():
    soft_labels = random_soft_labels(3, 6, 4)
    fused = consensus(soft_labels.float())
    assert fused.dtype == torch.float32
    torch.testing.assert_close(fused.double(), consensus(soft_labels), rtol=0, atol=1e-6)


@pytest.mark.parametrize("exponent", [0.0, -1.0, math.nan, math.inf])
def test_an_exponent_out_of_range_is_refused(exponent):
    with pytest.raises(ValueError, match=f"exponent={exponent} must be finite and positive"):
        EnhancedERA(exponent)


# The cache


def fuse_rounds(strategy, chosen, first_round=1, number=3, samples=4):
    """Run a round for each list of chosen samples; return what was asked for and what came back."""
    rounds = []
    for round, rows in enumerate(chosen, start=first_round):
        asked = strategy.ask(torch.tensor(rows), round)
        mask = torch.zeros(number, samples, dtype=torch.bool).index_fill(1, asked, True)
        answers = random_soft_labels(number, samples, 5, seed=round) * mask.unsqueeze(2)
        tensors = strategy.fuse(batch(answers, mask, round), None).common["soft_labels"]
        rounds.append((asked.tolist(), tensors["soft_labels"], tensors["mask"].tolist()))
    return rounds


def fresh(round, number=3, samples=4):
    """The consensus without a cache on all samples."""
    return consensus(random_soft_labels(number, samples, 5, seed=round))


def test_without_a_cache_everything_is_asked_for_in_every_round_and_nothing_is_kept():
    strategy = EnhancedERA()
    for round, (asked, soft_labels, _) in enumerate(fuse_rounds(strategy, [[0, 1, 2, 3]] * 3), start=1):
        assert asked == [0, 1, 2, 3]
        assert torch.equal(soft_labels, fresh(round))
    assert strategy.state_dict() == {"cached": None, "cached_rounds": None}


def test_a_consensus_is_used_again_for_so_many_rounds_and_then_asked_for_again():
    chosen = [[0, 1], [1, 2], [0, 1, 2, 3], [0, 1, 2]]
    rounds = fuse_rounds(EnhancedERA(cache_duration=2), chosen)
    assert [asked for asked, _, _ in rounds] == [[0, 1], [2], [3], [0, 1]]
    made_in = [{0: 1, 1: 1}, {1: 1, 2: 2}, {0: 1, 1: 1, 2: 2, 3: 3}, {0: 4, 1: 4, 2: 2}]
    for (_, soft_labels, mask), expected in zip(rounds, made_in, strict=True):
        assert [sample for sample in range(4) if mask[sample]] == sorted(expected)
        for sample, round in expected.items():
            torch.testing.assert_close(soft_labels[sample], fresh(round)[sample], rtol=0, atol=1e-14)


def test_where_everything_is_known_the_oldest_answer_is_asked_for_again():
    rounds = fuse_rounds(EnhancedERA(cache_duration=5), [[1], [0, 1], [1, 0], [0, 1]])
    assert [asked for asked, _, _ in rounds] == [[1], [0], [1], [0]]
    for (_, soft_labels, mask), (of_0, of_1) in zip(rounds[1:], [(2, 1), (2, 3), (4, 3)], strict=True):
        assert mask == [True, True, False, False]
        torch.testing.assert_close(soft_labels[0], fresh(of_0)[0], rtol=0, atol=1e-14)
        torch.testing.assert_close(soft_labels[1], fresh(of_1)[1], rtol=0, atol=1e-14)


def test_what_nobody_answered_is_asked_for_again():
    strategy = EnhancedERA(cache_duration=5)
    rows = torch.arange(3)
    assert strategy.ask(rows, 1).tolist() == [0, 1, 2]
    mask = torch.tensor([[True, False, True]]).expand(2, 3)
    fused = strategy.fuse(batch(random_soft_labels(2, 3, 4) * mask.unsqueeze(2), mask), None)
    assert fused.common["soft_labels"]["mask"].tolist() == [True, False, True]
    assert strategy.ask(rows, 2).tolist() == [1]


def test_the_cache_survives_being_saved_and_loaded():
    strategy, other = EnhancedERA(cache_duration=3), EnhancedERA(cache_duration=3)
    fuse_rounds(strategy, [[0, 1]])
    file = io.BytesIO()
    torch.save(strategy.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    kept = strategy.state_dict()
    ((asked, expected, _),) = fuse_rounds(strategy, [[0, 1, 2, 3]], first_round=2)
    ((asked_again, loaded, _),) = fuse_rounds(other, [[0, 1, 2, 3]], first_round=2)
    assert asked == asked_again == [2, 3]
    assert torch.equal(loaded, expected)
    assert torch.equal(expected, torch.cat([fresh(1)[:2], fresh(2)[2:]]))
    # What was saved is not what goes on changing.
    assert kept["cached_rounds"].tolist() == [1, 1, 0, 0]


def test_a_negative_duration_is_refused():
    with pytest.raises(ValueError, match="cache_duration=-1 must not be negative"):
        EnhancedERA(cache_duration=-1)


def test_in_a_run_the_cache_saves_bytes_on_the_way_up(tmp_path):
    def bytes_up(duration):
        words = ["strategy=enhanced_era", f"strategy.cache_duration={duration}", "num_clients=3", "num_rounds=4"]
        words += ["model=mlp_small", "learn.epochs=1", "local_baseline=false", "transfer/policy=random_subset"]
        directory = simulate(compose(words), tmp_path / str(duration))
        return [line["bytes_up"] for line in read_metrics(directory)]

    without, with_cache = bytes_up(0), bytes_up(9)
    assert with_cache[0] == without[0]
    assert all(saved < plain for saved, plain in zip(with_cache[1:], without[1:], strict=True))
    # In four rounds, half of the samples each, hardly any is new in the last.
    assert with_cache[3] < 0.4 * without[3]
