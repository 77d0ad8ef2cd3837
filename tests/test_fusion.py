import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import rel_entr

from fedfuse import fusion
from fedfuse.fusion import SPACES, Neighbours, is_weight, mix, pairwise_divergence, strongest

INVARIANT = settings(max_examples=30, deadline=None, derandomize=True)
SIZES = {
    "seed": st.integers(0, 10_000),
    "num_clients": st.integers(1, 5),
    "num_samples": st.integers(1, 4),
    "num_classes": st.integers(2, 4),
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random_soft_labels(*shape, seed=0, dtype=torch.float64):
    return torch.softmax(3 * torch.randn(*shape, generator=generator(seed), dtype=dtype), dim=-1)


def random_weights(*shape, seed=0, share_of_zeros=0.3):
    random = generator(seed)
    weights = torch.rand(*shape, generator=random, dtype=torch.float64)
    return weights * (torch.rand(*shape, generator=random) >= share_of_zeros)


def full(num_clients, num_samples):
    return torch.ones(num_clients, num_samples, dtype=torch.bool)


def double_loop(soft_labels, mask, relevance, sample_weights, space):
    """The formula of `mix`, term by term, in float64."""
    num_clients, num_samples, num_classes = soft_labels.shape
    mixed = np.full((len(relevance), num_samples, num_classes), 1 / num_classes)
    answered = np.zeros((len(relevance), num_samples), dtype=bool)
    for listener, sample in itertools.product(range(len(relevance)), range(num_samples)):
        total, values = 0.0, np.zeros(num_classes)
        for client in range(num_clients):
            weight = float(relevance[listener, client]) * float(mask[client, sample])
            if sample_weights is not None:
                weight *= float(sample_weights[client, sample])
            own = soft_labels[client, sample].double().numpy()
            values += weight * (own if space == "probability" else np.log(np.maximum(own, 1e-8)))
            total += weight
        if total == 0:
            continue
        answered[listener, sample] = True
        mean = values / total
        mixed[listener, sample] = mean if space == "probability" else np.exp(mean) / np.exp(mean).sum()
    return torch.from_numpy(mixed), torch.from_numpy(answered)


# -- mix ---------------------------------------------------------------------------------------------------------------


@INVARIANT
@given(
    **SIZES,
    num_listeners=st.integers(1, 5),
    space=st.sampled_from(SPACES),
    masked=st.booleans(),
    weighted=st.booleans(),
)
def test_mix_equals_the_double_loop(
    seed, num_clients, num_samples, num_classes, num_listeners, space, masked, weighted
):
    relevance = random_weights(num_listeners, num_clients, seed=seed + 1)
    mask = random_weights(num_clients, num_samples, seed=seed + 2) > 0 if masked else full(num_clients, num_samples)
    weights = random_weights(num_clients, num_samples, seed=seed + 3) if weighted else None
    soft_labels = random_soft_labels(num_clients, num_samples, num_classes, seed=seed) * mask.unsqueeze(2)

    mixed, answered = mix(soft_labels, mask, relevance, weights, space)
    expected, expected_answered = double_loop(soft_labels, mask, relevance, weights, space)
    assert torch.equal(answered, expected_answered)
    torch.testing.assert_close(mixed, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(mixed.sum(2), torch.ones_like(mixed[:, :, 0]), rtol=0, atol=1e-12)
    assert (mixed >= 0).all()


@pytest.mark.parametrize("space", SPACES)
def test_mix_in_float32_equals_the_double_loop_and_stays_float32(space):
    mask = random_weights(6, 9, seed=1) > 0
    soft_labels = random_soft_labels(6, 9, 5, dtype=torch.float32) * mask.unsqueeze(2)
    relevance, weights = random_weights(4, 6, seed=2), random_weights(6, 9, seed=3)
    mixed, answered = mix(soft_labels, mask, relevance, weights, space)
    expected, expected_answered = double_loop(soft_labels, mask, relevance, weights, space)
    assert mixed.dtype == torch.float32
    assert torch.equal(answered, expected_answered)
    torch.testing.assert_close(mixed.double(), expected, rtol=0, atol=3e-6)


def test_arithmetic_mean_in_numbers():
    soft_labels = torch.tensor([[[0.8, 0.2]], [[0.4, 0.6]]], dtype=torch.float64)
    mixed, _ = mix(soft_labels, full(2, 1), torch.tensor([[0.75, 0.25]]))
    assert mixed.flatten().tolist() == pytest.approx([0.7, 0.3])


@pytest.mark.parametrize("space", ["log_probability", "logit"])
def test_geometric_mean_in_numbers(space):
    soft_labels = torch.tensor([[[0.8, 0.2]], [[0.5, 0.5]]], dtype=torch.float64)
    mixed, _ = mix(soft_labels, full(2, 1), torch.tensor([[0.5, 0.5]]), space=space)
    # sqrt(0.8 * 0.5) to sqrt(0.2 * 0.5) is two to one.
    assert mixed.flatten().tolist() == pytest.approx([2 / 3, 1 / 3])


def test_sample_weights_count_for_each_sample_alone():
    soft_labels = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]])
    sample_weights = torch.tensor([[3.0, 0.0], [1.0, 5.0]])
    mixed, answered = mix(soft_labels, full(2, 2), torch.tensor([[0.5, 0.5]]), sample_weights)
    assert mixed.tolist() == [[[0.75, 0.25], [0.0, 1.0]]]
    assert answered.all()


@pytest.mark.parametrize("space", SPACES)
def test_rows_that_nobody_answered_are_uniform(space):
    mask = torch.tensor([[True, False, True], [True, False, False]])
    soft_labels = random_soft_labels(2, 3, 4) * mask.unsqueeze(2)
    # The second listener counts on the second client alone, the third on nobody.
    relevance = torch.tensor([[0.5, 0.5], [0.0, 1.0], [0.0, 0.0]])
    mixed, answered = mix(soft_labels, mask, relevance, space=space)
    assert answered.tolist() == [[True, False, True], [True, False, False], [False, False, False]]
    assert (mixed[~answered] == 0.25).all()
    torch.testing.assert_close(mixed[0, 2], soft_labels[0, 2])
    torch.testing.assert_close(mixed[1, 0], soft_labels[1, 0])


@pytest.mark.parametrize("space", SPACES)
def test_rows_with_no_sample_weight_or_no_relevance_are_uniform(space):
    soft_labels = random_soft_labels(2, 2, 4)
    mixed, answered = mix(soft_labels, full(2, 2), torch.ones(1, 2), torch.tensor([[0.0, 1.0], [0.0, 0.0]]), space)
    assert answered.tolist() == [[False, True]]
    assert mixed[0, 0].tolist() == [0.25] * 4
    torch.testing.assert_close(mixed[0, 1], soft_labels[0, 1])

    mixed, answered = mix(soft_labels, full(2, 2), torch.zeros(1, 2), space=space)
    assert not answered.any()
    assert (mixed == 0.25).all()


@pytest.mark.parametrize("space", SPACES)
def test_answers_that_a_mask_leaves_out_do_not_matter(space):
    mask = torch.tensor([[True, False], [True, True]])
    soft_labels = random_soft_labels(2, 2, 3)
    other = soft_labels.clone()
    other[0, 1] = torch.tensor([1.0, 0.0, 0.0])
    relevance = torch.tensor([[0.6, 0.4]])
    assert torch.equal(mix(soft_labels, mask, relevance, space=space)[0], mix(other, mask, relevance, space=space)[0])


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("case", ["complete", "masked", "weighted"])
def test_size_of_a_block_does_not_matter(space, case, monkeypatch):
    mask = random_weights(7, 5, seed=1) > 0 if case == "masked" else full(7, 5)
    weights = random_weights(7, 5, seed=2) if case == "weighted" else None
    soft_labels = random_soft_labels(7, 5, 3) * mask.unsqueeze(2)
    relevance = random_weights(7, 7, seed=3)
    whole = mix(soft_labels, mask, relevance, weights, space)
    neighbours = mix(soft_labels, mask, strongest(relevance, 2), weights, space)
    monkeypatch.setattr(fusion, "BLOCK_ROWS", 3)
    monkeypatch.setattr(fusion, "PRODUCT_NUMBERS", 2 * 7 * 3)
    monkeypatch.setattr(fusion, "BLOCK_NUMBERS", 2 * 7 * 3)
    blocked = mix(soft_labels, mask, relevance, weights, space)
    torch.testing.assert_close(blocked[0], whole[0], rtol=0, atol=1e-14)
    assert torch.equal(blocked[1], whole[1])
    blocked = mix(soft_labels, mask, strongest(relevance, 2), weights, space)
    torch.testing.assert_close(blocked[0], neighbours[0], rtol=0, atol=1e-14)
    assert torch.equal(blocked[1], neighbours[1])


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("weighted", [False, True])
def test_listening_to_oneself_alone_returns_the_input(space, weighted):
    soft_labels = random_soft_labels(4, 6, 3)
    weights = 0.1 + random_weights(4, 6) if weighted else None
    mixed, answered = mix(soft_labels, full(4, 6), torch.eye(4), weights, space)
    torch.testing.assert_close(mixed, soft_labels, rtol=0, atol=1e-12)
    assert answered.all()


@pytest.mark.parametrize("space", SPACES)
def test_only_the_proportions_of_relevance_and_of_sample_weights_matter(space):
    soft_labels, mask = random_soft_labels(3, 4, 3), full(3, 4)
    relevance, weights = 0.1 + random_weights(2, 3), 0.1 + random_weights(3, 4)
    expected, _ = mix(soft_labels, mask, relevance, weights, space)
    mixed, _ = mix(soft_labels, mask, 7 * relevance, weights / 16, space)
    torch.testing.assert_close(mixed, expected, rtol=0, atol=1e-12)


def test_the_spaces_logit_and_log_probability_are_the_same():
    soft_labels, mask = random_soft_labels(3, 5, 4), random_weights(3, 5) > 0
    relevance = random_weights(3, 3)
    logit = mix(soft_labels, mask, relevance, space="logit")
    log_probability = mix(soft_labels, mask, relevance, space="log_probability")
    assert torch.equal(logit[0], log_probability[0])
    assert torch.equal(logit[1], log_probability[1])


def test_mean_in_logit_space_is_the_softmax_of_the_mean_of_the_true_logits():
    # Every row of logits has a level of its own, which the soft labels do not tell.
    logits = 2 * torch.randn(4, 6, 5, generator=generator(), dtype=torch.float64)
    logits += 50 * torch.randn(4, 6, 1, generator=generator(1), dtype=torch.float64)
    relevance = torch.softmax(torch.randn(3, 4, generator=generator(2), dtype=torch.float64), dim=1)
    mixed, _ = mix(torch.softmax(logits, dim=2), full(4, 6), relevance, space="logit")
    expected = torch.softmax(torch.einsum("kn,nmc->kmc", relevance, logits), dim=2)
    torch.testing.assert_close(mixed, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("space", ["log_probability", "logit"])
def test_a_probability_of_zero_counts_as_the_smallest_one(space):
    soft_labels = torch.tensor([[[1.0, 0.0]], [[0.5, 0.5]]], dtype=torch.float64)
    mixed, _ = mix(soft_labels, full(2, 1), torch.tensor([[0.5, 0.5]]), space=space)
    assert mixed[0, 0, 1].item() == pytest.approx(1e-4 / (1 + 1e-4))


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("weight", [1e-37, 1e-40, 1e-45])
def test_rows_sum_to_one_when_almost_nothing_is_heard(space, weight):
    mask = torch.tensor([[False], [True]])
    soft_labels = random_soft_labels(2, 1, 3, dtype=torch.float32) * mask.unsqueeze(2)
    mixed, answered = mix(soft_labels, mask, torch.tensor([[1.0, weight]]), space=space)
    assert mixed.sum().item() == pytest.approx(1, abs=1e-6)
    assert answered.item() == (weight == 1e-37)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("weighted", [False, True])
def test_mix_leaves_its_inputs_alone(space, weighted):
    soft_labels, mask, relevance = random_soft_labels(3, 4, 3), full(3, 4), random_weights(3, 3)
    inputs = [soft_labels, mask, relevance, random_weights(3, 4) if weighted else None]
    copies = [None if value is None else value.clone() for value in inputs]
    mix(*inputs, space=space)
    for value, copy in zip(inputs, copies, strict=True):
        assert value is copy is None or torch.equal(value, copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"relevance": torch.ones(2, 4)}, r"relevance must have shape \[2, 3\], not \[2, 4\]"),
        ({"relevance": torch.ones(3)}, r"relevance must have shape \[3, 3\], not \[3\]"),
        ({"relevance": torch.tensor([[0.5, 0.6, -0.1]])}, "relevance must be finite and not negative"),
        ({"relevance": torch.tensor([[0.5, 0.5, math.nan]])}, "relevance must be finite and not negative"),
        ({"relevance": torch.tensor([[0.5, 0.5, math.inf]])}, "relevance must be finite and not negative"),
        ({"sample_weights": torch.ones(2, 3)}, r"sample weights must have shape \[3, 2\], not \[2, 3\]"),
        ({"sample_weights": -torch.ones(3, 2)}, "sample weights must be finite and not negative"),
        ({"sample_weights": torch.full((3, 2), math.inf)}, "sample weights must be finite and not negative"),
        ({"mask": full(3, 4)}, r"mask must have shape \[3, 2\], not \[3, 4\]"),
        ({"mask": full(3, 1)}, r"mask must have shape \[3, 2\], not \[3, 1\]"),
        ({"space": "probabilities"}, "'probabilities'; valid: probability, log_probability, logit"),
    ],
)
def test_what_cannot_be_mixed_is_refused(change, message):
    arguments = {"soft_labels": random_soft_labels(3, 2, 4), "mask": full(3, 2), "relevance": torch.ones(1, 3)}
    with pytest.raises(ValueError, match=message):
        mix(**{**arguments, **change})


@pytest.mark.parametrize("space", SPACES)
def test_soft_labels_are_copied_a_block_at_a_time(space, monkeypatch):
    monkeypatch.setattr(fusion, "PRODUCT_NUMBERS", 2 * 7 * 3)
    added, add_up = [], fusion._add_up

    def recording(listeners, rows, values, out):
        added.append(values)
        return add_up(listeners, rows, values, out)

    monkeypatch.setattr(fusion, "_add_up", recording)
    soft_labels = random_soft_labels(7, 5, 3)
    mix(soft_labels, full(7, 5), torch.ones(7, 7), space=space)
    if space == "probability":
        assert [values.data_ptr() for values in added] == [soft_labels.data_ptr()]
    else:
        assert [tuple(values.shape) for values in added] == [(7, 6), (7, 6), (7, 3)]


# -- neighbours --------------------------------------------------------------------------------------------------------


@INVARIANT
@given(
    **SIZES,
    number=st.integers(1, 6),
    space=st.sampled_from(SPACES),
    masked=st.booleans(),
    weighted=st.booleans(),
)
def test_neighbours_mix_as_the_same_relevance_does_with_zeros_for_all_others(
    seed, num_clients, num_samples, num_classes, number, space, masked, weighted
):
    relevance = random_weights(4, num_clients, seed=seed + 1)
    mask = random_weights(num_clients, num_samples, seed=seed + 2) > 0 if masked else full(num_clients, num_samples)
    weights = random_weights(num_clients, num_samples, seed=seed + 3) if weighted else None
    soft_labels = random_soft_labels(num_clients, num_samples, num_classes, seed=seed) * mask.unsqueeze(2)
    few = strongest(relevance, number)
    mixed, answered = mix(soft_labels, mask, few, weights, space)
    expected, expected_answered = mix(soft_labels, mask, few.dense(num_clients), weights, space)
    assert torch.equal(answered, expected_answered)
    torch.testing.assert_close(mixed, expected, rtol=0, atol=1e-12)


def test_the_strongest_are_kept_and_sum_to_one():
    few = strongest(torch.tensor([[0.1, 0.6, 0.3], [0.5, 0.25, 0.25], [0.0, 0.0, 0.0]], dtype=torch.float64), 2)
    assert few.clients[0].tolist() == [1, 2]
    assert few.relevance[:2, 0].tolist() == pytest.approx([2 / 3, 2 / 3])
    assert few.relevance.sum(1).tolist() == pytest.approx([1, 1, 0])
    assert few.dense(3)[0].tolist() == pytest.approx([0, 2 / 3, 1 / 3])


def test_as_many_neighbours_as_there_are_clients_are_all():
    relevance = torch.softmax(random_weights(5, 5), dim=1)
    torch.testing.assert_close(strongest(relevance, 9).dense(5), relevance, rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("clients", "relevance", "message"),
    [
        ([[0, 3]], [[0.5, 0.5]], "neighbours must be from 0 to 2, not from 0 to 3"),
        ([[-1, 2]], [[0.5, 0.5]], "neighbours must be from 0 to 2, not from -1 to 2"),
        ([[0, 1]], [[0.5, -0.5]], "relevance must be finite and not negative"),
        ([[0, 1]], [[0.5]], r"relevance must have shape \[1, 2\], not \[1, 1\]"),
    ],
)
def test_neighbours_that_cannot_be_mixed_are_refused(clients, relevance, message):
    few = Neighbours(torch.tensor(clients), torch.tensor(relevance))
    with pytest.raises(ValueError, match=message):
        mix(random_soft_labels(3, 2, 4), full(3, 2), few)


@pytest.mark.parametrize("bad", [-0.1, math.nan, math.inf, -math.inf])
def test_a_weight_is_finite_and_not_negative(bad):
    weights = torch.rand(3, 4)
    assert is_weight(weights)
    assert is_weight(torch.empty(0, 4))
    weights[2, 1] = bad
    assert not is_weight(weights)


# -- pairwise_divergence -----------------------------------------------------------------------------------------------

DIVERGENCES = ("kl", "js", "l2")


def explicit_divergence(p, q, divergence):
    if divergence == "kl":
        return rel_entr(p, q).sum()
    if divergence == "js":
        return (rel_entr(p, (p + q) / 2).sum() + rel_entr(q, (p + q) / 2).sum()) / 2
    return ((p - q) ** 2).sum()


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("smoothing", [1e-3, 1e-2, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_pair_has_the_divergence_of_the_formula(divergence, smoothing, dtype):
    distributions = random_soft_labels(6, 4, dtype=dtype)
    distributions[0] = torch.tensor([1.0, 0.0, 0.0, 0.0])
    smooth = ((1 - smoothing) * distributions + smoothing / 4).double().numpy()
    expected = [[explicit_divergence(p, q, divergence) for q in smooth] for p in smooth]
    result = pairwise_divergence(distributions, divergence, smoothing)
    assert result.dtype == dtype
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(result.double(), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=tolerance)


def test_divergences_of_two_certain_clients_in_numbers():
    certain = torch.eye(2, dtype=torch.float64)
    # Smoothing by 0.5 leaves 3/4 and 1/4.
    assert pairwise_divergence(certain, "kl", 0.5)[0, 1].item() == pytest.approx(math.log(3) / 2)
    middle = (3 * math.log(3 / 2) + math.log(1 / 2)) / 4
    assert pairwise_divergence(certain, "js", 0.5)[0, 1].item() == pytest.approx(middle)
    assert pairwise_divergence(certain, "l2", 0.5)[0, 1].item() == pytest.approx(0.5)


def test_smoothing_is_one_in_a_thousand_where_nothing_else_is_said():
    certain = torch.eye(2, dtype=torch.float64)
    assert pairwise_divergence(certain, "kl")[0, 1].item() == pytest.approx(0.999 * math.log(0.9995 / 0.0005))


@INVARIANT
@given(
    seed=SIZES["seed"],
    number=st.integers(1, 30),
    num_classes=SIZES["num_classes"],
    divergence=st.sampled_from(DIVERGENCES),
)
def test_a_divergence_is_zero_to_oneself_not_negative_and_follows_the_clients(seed, number, num_classes, divergence):
    distributions = random_soft_labels(number, num_classes, seed=seed)
    result = pairwise_divergence(distributions, divergence)
    assert result.shape == (number, number)
    assert (result.diagonal() == 0).all()
    assert (result >= 0).all()
    order = torch.randperm(number, generator=generator(seed))
    permuted = pairwise_divergence(distributions[order], divergence)
    torch.testing.assert_close(permuted, result[order][:, order], rtol=0, atol=1e-12)


@pytest.mark.parametrize("divergence", ["js", "l2"])
def test_jensen_shannon_and_squared_distance_are_symmetric(divergence):
    result = pairwise_divergence(random_soft_labels(40, 5), divergence)
    torch.testing.assert_close(result, result.T, rtol=0, atol=1e-14)


def test_jensen_shannon_stays_below_the_logarithm_of_two_and_kl_is_not_symmetric():
    distributions = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]], dtype=torch.float64)
    assert 0.68 < pairwise_divergence(distributions, "js")[0, 1] < math.log(2)
    kl = pairwise_divergence(distributions, "kl")
    assert abs(kl[0, 1] - kl[1, 0]) > 0.1


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_identical_clients_do_not_diverge_and_the_input_is_left_alone(divergence):
    distributions = random_soft_labels(1, 10, dtype=torch.float32).expand(30, 10).clone()
    before = distributions.clone()
    torch.testing.assert_close(pairwise_divergence(distributions, divergence), torch.zeros(30, 30), rtol=0, atol=1e-6)
    assert torch.equal(distributions, before)


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("numbers", [1, 40, 75])
def test_size_of_a_block_does_not_matter_for_a_divergence(divergence, numbers, monkeypatch):
    distributions = random_soft_labels(7, 5)
    whole = pairwise_divergence(distributions, divergence)
    monkeypatch.setattr(fusion, "BLOCK_NUMBERS", numbers)
    monkeypatch.setattr(fusion, "BLOCK_ROWS", 3)
    torch.testing.assert_close(pairwise_divergence(distributions, divergence), whole, rtol=0, atol=1e-14)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_rounding_never_makes_a_divergence_negative(divergence):
    nearly_equal = torch.softmax(1e-4 * torch.randn(40, 10, generator=generator()), dim=1)
    assert (pairwise_divergence(nearly_equal, divergence) >= 0).all()


def test_unknown_divergence_is_refused():
    with pytest.raises(ValueError, match="'hellinger'; valid: kl, js, l2"):
        pairwise_divergence(torch.eye(2), "hellinger")
