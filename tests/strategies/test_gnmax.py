import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from protection import EXPOSURE
from scipy.stats import norm

from fedfuse.errors import ConfigurationError
from fedfuse.knowledge import KnowledgeBatch
from fedfuse.privacy.accounting import zcdp_to_epsilon
from fedfuse.privacy.guarantee import FROM_THE_SYSTEM, SEEDED
from fedfuse.privacy.keystream import Keystream
from fedfuse.server import Server
from fedfuse.transfer.all import AllRows
from strategies.gnmax import GNMax, add_noise, count_votes

CERTAIN = 1e-3  # so little noise that it decides nothing


def server(seed=0, secure_rng=False):
    return Server(
        seed=seed,
        transfer_inputs=torch.zeros(1, 2),
        transfer_digest="digest",
        class_names=("a", "b", "c"),
        architectures={},
        dtype=torch.float64,
        transfer_rows=AllRows(),
        secure_rng=secure_rng,
    )


def batch(votes, mask=None, round=1):
    """Knowledge of clients (rows) that vote for one of three classes on each sample (columns)."""
    soft_labels = 0.1 + 0.7 * torch.nn.functional.one_hot(torch.tensor(votes), 3).double()
    mask = torch.ones(soft_labels.shape[:2], dtype=torch.bool) if mask is None else torch.tensor(mask)
    tensors = {"soft_labels": {"soft_labels": soft_labels * mask.unsqueeze(2), "mask": mask}}
    return KnowledgeBatch(tuple(range(len(votes))), round, tensors)


def answers(strategy, knowledge, by=None):
    fused = strategy.fuse(knowledge, server() if by is None else by)
    assert fused.relevance is None
    assert not fused.personal
    assert set(fused.common) == {"soft_labels"}
    return fused.common["soft_labels"]["soft_labels"], fused.common["soft_labels"]["mask"]


def test_soft_labels_travel_both_ways_and_no_facts():
    assert GNMax.sends == GNMax.returns == {"soft_labels"}
    assert GNMax.needs == frozenset()


def test_nearly_without_noise_the_class_with_most_votes_comes_back_alone():
    soft_labels, mask = answers(GNMax(CERTAIN), batch([[0, 1, 2], [0, 2, 2], [1, 2, 2]]))
    assert soft_labels.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 1]]
    assert mask.tolist() == [True, True, True]


def test_votes_are_counted_where_clients_answered_and_are_not_even():
    third = 1 / 3
    soft_labels = torch.tensor(
        [
            [[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.0, 0.0, 0.0]],
            [[0.4, 0.4, 0.2], [third, third, third], [0.0, 0.1, 0.9]],
        ]
    )
    mask = torch.tensor([[True, True, False], [True, True, True]])
    assert count_votes(soft_labels, mask).tolist() == [[2, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert count_votes(soft_labels, torch.zeros_like(mask)).sum() == 0


def test_samples_that_were_not_asked_for_carry_nothing_and_cost_nothing():
    strategy = GNMax(CERTAIN)
    soft_labels, mask = answers(strategy, batch([[2, 1, 2]] * 2, mask=[[True, False, True]] * 2))
    assert mask.tolist() == [True, False, True]
    assert soft_labels.tolist() == [[0, 0, 1], pytest.approx([1 / 3] * 3), [0, 0, 1]]
    assert (strategy.looked_at, strategy.answered) == (2, 2)


def test_single_precision_stays_single_precision():
    knowledge = batch([[0, 1]])
    tensors = {"soft_labels": knowledge.soft_labels.float(), "mask": knowledge.mask}
    assert answers(GNMax(1.0), replace(knowledge, tensors={"soft_labels": tensors}))[0].dtype == torch.float32


def share(selected):
    return selected.double().mean().item()


def test_the_winner_is_right_as_often_as_the_noise_says():
    # Three votes to one to none: the third class is so far behind that only two compete, 2 apart, of deviation 0.7.
    number, sigma = 20_000, 0.7
    soft_labels, mask = answers(GNMax(sigma), batch([[0] * number] * 3 + [[1] * number]))
    expected = norm.cdf(2 / (sigma * math.sqrt(2)))
    assert mask.all()
    assert abs(share(soft_labels[:, 0] == 1) - expected) < 5 * math.sqrt(expected * (1 - expected) / number)


def test_samples_are_answered_as_often_as_the_threshold_says_whoever_wins():
    number, sigma, votes = 40_000, 0.7, [[0] * 40_000] * 3 + [[1] * 40_000]
    strategy = GNMax(sigma, threshold=4.0, threshold_sigma=2.0)
    soft_labels, mask = answers(strategy, batch(votes))
    expected = norm.sf((4 - 3) / 2)
    assert abs(share(mask) - expected) < 5 * math.sqrt(expected * (1 - expected) / number)
    assert (strategy.looked_at, strategy.answered) == (number, int(mask.sum()))
    # The noise of the test is not that of the answer: those answered are right as often as all are.
    right = norm.cdf(2 / (sigma * math.sqrt(2)))
    answered = soft_labels[mask][:, 0] == 1
    assert abs(share(answered) - right) < 5 * math.sqrt(right * (1 - right) / len(answered))


@pytest.mark.parametrize("sigma", [0.7, 40, 300.5])
def test_noise_has_the_deviation_that_is_accounted_for_and_hides_a_vote(sigma):
    counts = torch.arange(40_000).reshape(10_000, 4)
    noised = add_noise(counts, sigma, Keystream(bytes(32), "moments"))
    noise = noised - counts
    assert abs(noise.mean().item()) < 5 * sigma / math.sqrt(40_000)
    assert noise.std().item() == pytest.approx(sigma, rel=5 / math.sqrt(80_000))
    # Whatever comes out could have come from one vote more: all are whole numbers of the same steps.
    steps = max(1, math.ceil(256 / sigma))
    torch.testing.assert_close((noised * steps).round(), noised * steps, rtol=0, atol=1e-6)
    assert len(noise.unique()) > 1000
    one_more = add_noise(counts + 1, sigma, Keystream(bytes(32), "moments"))
    torch.testing.assert_close(one_more - noised, torch.ones_like(noised), rtol=0, atol=1e-9)


def test_every_round_and_every_call_to_a_secure_server_has_noise_of_its_own():
    votes = [[0] * 200, [1] * 200]
    first, again = (answers(GNMax(5.0), batch(votes))[0] for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, answers(GNMax(5.0), batch(votes, round=2))[0])
    assert not torch.equal(first, answers(GNMax(5.0), batch(votes), server(seed=1))[0])
    secure = [answers(GNMax(5.0), batch(votes), server(secure_rng=True))[0] for _ in range(2)]
    assert not torch.equal(*secure)


def test_all_draws_of_a_round_come_from_one_stream_so_that_none_is_used_twice():
    asked = []

    def keystream(purpose, round):
        asked.append((purpose, round))
        return Keystream(bytes(32), purpose)

    strategy = GNMax(5.0, threshold=1.0, threshold_sigma=5.0)
    strategy.fuse(batch([[0] * 10], round=3), SimpleNamespace(keystream=keystream))
    assert asked == [("gnmax", 3)]


# What it promises


def test_all_samples_of_all_rounds_are_accounted_for():
    exposure = replace(EXPOSURE, num_rows=50, num_clients=100)
    stated = GNMax(sigma=20.0).guarantee(exposure, 4)
    # rho = 4 * 50 / 20**2 = 0.5
    assert stated.epsilon == zcdp_to_epsilon(0.5, 1e-5) == pytest.approx(4.728, abs=0.001)
    assert (stated.protector, stated.unit, stated.delta, stated.draws) == ("gnmax", "client", 1e-5, FROM_THE_SYSTEM)
    assert "the server is trusted" in stated.adversary
    assert stated.mechanism == (
        "the winner of the clients' votes with discrete Gaussian noise of deviation 20, of 50 samples a round"
    )
    assert GNMax(sigma=20.0).guarantee(replace(exposure, secure=False), 4).draws == SEEDED


def test_tests_against_the_threshold_are_accounted_for_too():
    exposure = replace(EXPOSURE, num_rows=50, num_clients=100)
    stated = GNMax(20.0, 60.0, 40.0, delta=1e-3).guarantee(exposure, 4)
    # rho = 200 * (1 / 20**2 + 1 / (2 * 40**2)) = 0.5625
    assert stated.epsilon == zcdp_to_epsilon(0.5625, 1e-3)
    assert stated.mechanism.endswith(", if it has 60 votes after noise of deviation 40")


def test_epsilon_is_that_of_an_independent_accountant():
    from dp_accounting import GaussianDpEvent, SelfComposedDpEvent
    from dp_accounting.rdp import RdpAccountant

    # Replacing one vote moves two counts by one: the sensitivity is the square root of two; of the largest, one.
    accountant = RdpAccountant(orders=[1 + step / 100 for step in range(1, 3000)])
    accountant.compose(SelfComposedDpEvent(GaussianDpEvent(20 / math.sqrt(2)), 200))
    accountant.compose(SelfComposedDpEvent(GaussianDpEvent(40), 200))
    exposure = replace(EXPOSURE, num_rows=50, num_clients=100)
    epsilon = GNMax(20.0, 60.0, 40.0).guarantee(exposure, 4).epsilon
    assert epsilon == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-3)


def test_a_budget_is_promised_from_the_start_unless_even_less_can_be_lost():
    exposure = replace(EXPOSURE, num_rows=50, num_clients=100)
    strategy = GNMax(20.0, epsilon=3.0)
    assert [strategy.guarantee(exposure, rounds).epsilon for rounds in (1, 4, 400)] == [
        zcdp_to_epsilon(0.125, 1e-5),
        3.0,
        3.0,
    ]
    assert strategy.guarantee(exposure, 1).mechanism.endswith(", until the budget is spent")


def test_delta_must_be_below_one_in_the_number_of_clients():
    with pytest.raises(
        ConfigurationError, match=r"delta=0\.1 of gnmax must be below 1/10, one in the number of client"
    ):
        GNMax(1.0, delta=0.1).guarantee(EXPOSURE, 1)


# The budget


def test_nothing_is_answered_beyond_the_budget_over_all_rounds():
    # Each answer costs 1 / 4; seven and a half of them are allowed.
    strategy = GNMax(2.0, epsilon=zcdp_to_epsilon(7.5 / 4, 1e-5))
    votes = [[0] * 5] * 3
    assert answers(strategy, batch(votes))[1].tolist() == [True] * 5
    kept = strategy.state_dict()
    resumed = GNMax(2.0, epsilon=zcdp_to_epsilon(7.5 / 4, 1e-5))
    resumed.load_state_dict(kept)
    for one in (strategy, resumed):
        assert answers(one, batch(votes, round=2))[1].tolist() == [True, True, False, False, False]
        assert not answers(one, batch(votes, round=3))[1].any()
        assert one.state_dict() == {"looked_at": 7, "answered": 7}
    assert kept == {"looked_at": 5, "answered": 5}


def test_a_budget_that_is_met_exactly_is_spent_whole():
    strategy = GNMax(1.0)
    strategy.budget = 3.0
    assert answers(strategy, batch([[0] * 5]))[1].tolist() == [True, True, True, False, False]


def test_tests_of_samples_that_are_not_answered_are_paid_for():
    # Nobody has a million votes: forty tests cost 1 / 2 each, then none is left for a test and an answer, 3 / 2.
    strategy = GNMax(1.0, threshold=1e6, threshold_sigma=1.0)
    strategy.budget = 21.0
    assert not answers(strategy, batch([[0] * 100]))[1].any()
    assert (strategy.looked_at, strategy.answered) == (40, 0)


@pytest.mark.parametrize("seed", range(5))
def test_samples_are_paid_for_one_after_the_other(seed):
    votes, allowed = [[0] * 300] * 3, 40.0
    free = GNMax(2.0, threshold=3.0, threshold_sigma=2.0)
    passed = answers(free, batch(votes), server(seed))[1].tolist()
    strategy = GNMax(2.0, threshold=3.0, threshold_sigma=2.0)
    strategy.budget = allowed
    told = answers(strategy, batch(votes), server(seed))[1].tolist()
    spent, tests, expected = 0.0, 0, []
    for passes in passed:
        if spent + 1 / 8 + 1 / 4 > allowed:
            expected.append(False)
            continue
        tests += 1
        spent += 1 / 8 + passes / 4
        expected.append(passes)
    assert told == expected
    assert (strategy.looked_at, strategy.answered) == (tests, sum(expected))
    assert 0 < sum(expected) < sum(passed)
    assert allowed - 3 / 8 < spent <= allowed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sigma": 0.0}, r"^sigma=0\.0 must be positive, from 0\.001 to 10000$"),
        ({"sigma": -1}, "sigma=-1 must be positive"),
        ({"sigma": math.nan}, "sigma=nan must be positive"),
        ({"sigma": math.inf}, "sigma=inf must be positive"),
        ({"sigma": 1, "threshold": 5}, "threshold=5 and threshold_sigma=None go together: give both"),
        ({"sigma": 1, "threshold_sigma": 5}, "threshold=None and threshold_sigma=5 go together"),
        ({"sigma": 1, "threshold": 0, "threshold_sigma": 1}, "threshold=0 must be finite and positive"),
        ({"sigma": 1, "threshold": math.inf, "threshold_sigma": 1}, "threshold=inf must be finite and positive"),
        ({"sigma": 1, "threshold": 5, "threshold_sigma": 0}, "threshold_sigma=0 must be positive"),
        ({"sigma": 1, "epsilon": 0}, "epsilon=0 must be finite and positive"),
        ({"sigma": 1, "epsilon": -2.0}, r"epsilon=-2\.0 must be finite and positive"),
        ({"sigma": 1, "epsilon": math.inf}, "epsilon=inf must be finite and positive"),
        ({"sigma": 1, "delta": 0.0}, r"delta=0\.0 must be in \(0, 1\)"),
        ({"sigma": 1, "delta": 1.0}, r"delta=1\.0 must be in \(0, 1\)"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        GNMax(**arguments)
