import math

import pytest
import torch

from fedfuse.models.outputs import Outputs
from fedfuse.objectives.rkd import RKD

# Sides of 3, 4 and 5, whose mean is 4; the right angle is at the first corner.
TRIANGLE = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
DISTANCES_ONLY, ANGLES_ONLY = RKD(1, 0), RKD(0, 1)


def random_features(rows=6, width=4, seed=0):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def matrix(*triangle):
    """Distances of three samples: 0 from 1, 0 from 2, 1 from 2."""
    full = torch.zeros(3, 3, dtype=torch.float64)
    full[[0, 0, 1], [1, 2, 2]] = torch.tensor(triangle, dtype=torch.float64)
    return full + full.T


def batch_of(relations, rows=None, known=None):
    """Samples of a transfer set, by their rows; all of them, in order, if none are given."""
    rows = torch.arange(len(relations)) if rows is None else torch.tensor(rows)
    known = torch.ones(len(rows), dtype=torch.bool) if known is None else torch.tensor(known)
    return {"relations": relations[rows], "positions": rows, "relations_known": known}


def loss_of(features, batch, objective=None, mask=None):
    mask = torch.ones(len(features), dtype=torch.bool) if mask is None else torch.tensor(mask)
    outputs = Outputs(torch.full((len(features), 2), math.nan, dtype=features.dtype), features)
    loss, state = (objective or RKD())(outputs, batch, mask, {})
    assert loss.shape == ()
    assert state == {}
    return loss


def test_losses_in_numbers():
    equilateral = batch_of(matrix(1, 1, 1))
    # Distances are 0.75, 1 and 1.25 instead of 1.
    distance = (0.25**2 / 2 + 0.25**2 / 2) / 3
    # Cosines are 0, 3/5 and 4/5 instead of 1/2.
    angle = (0.5**2 / 2 + 0.1**2 / 2 + 0.3**2 / 2) / 3
    assert loss_of(TRIANGLE, equilateral, DISTANCES_ONLY).item() == pytest.approx(distance, abs=1e-12)
    assert loss_of(TRIANGLE, equilateral, ANGLES_ONLY).item() == pytest.approx(angle, abs=1e-12)
    assert loss_of(TRIANGLE, equilateral).item() == pytest.approx(25 * distance + 50 * angle, abs=1e-12)
    assert loss_of(TRIANGLE, equilateral, RKD(2, 3)).item() == pytest.approx(2 * distance + 3 * angle, abs=1e-12)


def test_large_differences_count_by_their_size_not_its_square():
    # All three are wrong by more than 1, from where on the loss is linear.
    corners = torch.tensor([[0.0], [1e-3], [1.0]], dtype=torch.float64)
    target = batch_of(matrix(3, 1e-9, 1e-9))
    mean = (1e-3 + 0.999 + 1) / 3
    differences = [3 - 1e-3 / mean, 1 / mean, 0.999 / mean]
    expected = sum(one - 0.5 for one in differences) / 3
    assert loss_of(corners, target, DISTANCES_ONLY).item() == pytest.approx(expected, abs=1e-6)


def test_angles_of_distances_that_no_triangle_has_are_flat():
    # The law of cosines gives -3.5 and twice 1.5; three points on a line have cosines of -1, 1 and 1.
    line = torch.tensor([[1.0], [0.0], [2.0]], dtype=torch.float64)
    assert loss_of(line, batch_of(matrix(1, 1, 3)), ANGLES_ONLY).item() == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("objective", [RKD(), DISTANCES_ONLY, ANGLES_ONLY])
def test_a_student_that_sees_the_same_has_no_loss_and_no_gradient(objective):
    seen = random_features()
    # Turned, scaled, moved, and in one dimension more: distances and angles stay.
    turn = torch.linalg.qr(random_features(5, 5, seed=1)).Q[:4]
    features = (7 * seen @ turn + 3).requires_grad_()
    loss = loss_of(features, batch_of(torch.cdist(seen, seen)), objective)
    loss.backward()
    assert loss < 1e-20
    assert features.grad.abs().max() < 1e-10
    assert loss_of(random_features(seed=2), batch_of(torch.cdist(seen, seen)), objective) > 1e-3


def test_only_ratios_of_distances_matter_in_the_student_and_in_the_target():
    features, target = random_features(), torch.cdist(random_features(seed=1), random_features(seed=1))
    expected = loss_of(features, batch_of(target))
    torch.testing.assert_close(loss_of(1e-5 * features, batch_of(target)), expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(loss_of(features, batch_of(1e4 * target)), expected, rtol=1e-10, atol=0)


def test_loss_is_the_one_of_a_loop_over_pairs_and_triples():
    features, seen = random_features(5), random_features(5, seed=1)

    def huber(difference):
        return difference**2 / 2 if abs(difference) < 1 else abs(difference) - 0.5

    def relative(points):
        distances = torch.cdist(points, points)
        return distances / distances[distances > 0].mean()

    def cosine(points, i, j, k):
        first, second = points[i] - points[j], points[k] - points[j]
        return (first @ second / (first.norm() * second.norm())).item()

    student, target = relative(features), relative(seen)
    pairs = [huber((student - target)[i, j].item()) for i in range(5) for j in range(5) if i != j]
    triples = [(i, j, k) for i in range(5) for j in range(5) for k in range(5) if len({i, j, k}) == 3]
    angles = [huber(cosine(features, *one) - cosine(seen, *one)) for one in triples]
    expected = 25 * sum(pairs) / 20 + 50 * sum(angles) / 60
    assert loss_of(features, batch_of(torch.cdist(seen, seen))).item() == pytest.approx(expected, rel=1e-10)


def test_the_samples_of_a_batch_are_found_among_all_related_ones():
    features, seen = random_features(3), random_features(9, seed=1)
    target = torch.cdist(seen, seen)
    chosen = [7, 0, 4]
    expected = loss_of(features, batch_of(target[chosen][:, chosen]))
    torch.testing.assert_close(loss_of(features, batch_of(target, chosen)), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("objective", [RKD(), DISTANCES_ONLY, ANGLES_ONLY])
def test_gradient_agrees_with_finite_differences(objective):
    target = batch_of(torch.cdist(random_features(5, seed=1), random_features(5, seed=1)))
    features = random_features(5).requires_grad_()
    assert torch.autograd.gradcheck(lambda given: loss_of(given, target, objective), (features,))


@pytest.mark.parametrize("value", [1e3, math.inf, math.nan])
@pytest.mark.parametrize("by_mask", [True, False])
def test_padding_and_samples_without_relations_are_as_if_they_were_not_there(value, by_mask):
    seen = random_features(6, seed=1)
    target, kept = torch.cdist(seen, seen), [0, 2, 3, 5]
    alone = random_features(4).requires_grad_()
    expected = loss_of(alone, batch_of(target, kept))
    expected.backward()

    features = torch.full((6, 4), value, dtype=torch.float64)
    features[kept] = alone.detach()
    features.requires_grad_()
    counts = [row in kept for row in range(6)]
    other = [1e6 if not one else 1.0 for one in counts]
    garbage = target * torch.tensor(other, dtype=torch.float64) * torch.tensor(other, dtype=torch.float64).unsqueeze(1)
    batch = batch_of(garbage, known=None if by_mask else counts)
    loss = loss_of(features, batch, mask=counts if by_mask else None)
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(features.grad[kept], alone.grad, rtol=1e-12, atol=1e-15)
    assert (features.grad[[1, 4]] == 0).all()


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_too_few_samples_have_nothing_to_compare(number, dtype):
    features = random_features().to(dtype).requires_grad_()
    target = torch.cdist(random_features(seed=1), random_features(seed=1)).to(dtype)
    loss = loss_of(features, batch_of(target), mask=[row < number for row in range(6)])
    loss.backward()
    assert loss == 0
    assert features.grad.abs().max() < 1e-6
    smaller = loss_of(features[:number], batch_of(target, range(number)) if number else batch_of(target[:0, :0]))
    assert smaller == 0


@pytest.mark.parametrize("distance", [0.0, 1e-200, 1e-30, 1e-9])
def test_points_that_are_one_have_finite_gradients(distance):
    features = random_features()
    features[3] = features[1] + distance
    features.requires_grad_()
    target = torch.cdist(random_features(seed=1), random_features(seed=1))
    loss = loss_of(features, batch_of(target))
    loss.backward()
    assert torch.isfinite(loss)
    assert features.grad.abs().max() < 1e3
    # No angle is taken from one to the other; the student's distance is zero, and counts as it is.
    assert loss > loss_of(features, batch_of(target), ANGLES_ONLY) * 50


def test_samples_that_all_are_one_have_the_mean_target_to_learn_and_no_direction_to_go():
    features = torch.ones(3, 2, dtype=torch.float64, requires_grad=True)
    loss = loss_of(features, batch_of(matrix(1, 1, 1)))
    loss.backward()
    assert loss.item() == pytest.approx(25 / 2)
    assert (features.grad == 0).all()
    assert loss_of(TRIANGLE, batch_of(matrix(0, 0, 0)), ANGLES_ONLY) == 0


def test_the_same_sample_twice_is_no_angle():
    # Rows 0, 1, 2 and 0 again: of the triples only those without both copies side by side have angles.
    seen = random_features(3, seed=1)
    target, features = torch.cdist(seen, seen), random_features(3)
    twice = [0, 1, 2, 0]
    loss = loss_of(features[twice], batch_of(target, twice), RKD())
    assert torch.isfinite(loss)
    assert loss_of(7 * seen[twice], batch_of(target, twice)).item() == pytest.approx(0, abs=1e-20)


def test_many_clients_at_once_give_what_each_gives_alone():
    features = torch.stack([random_features(seed=seed) for seed in (0, 1)])
    seen = [random_features(9, seed=seed) for seed in (2, 3)]
    batches = [
        batch_of(torch.cdist(own, own), rows)
        for own, rows in zip(seen, ([8, 1, 2, 3, 4, 5], [0, 2, 4, 6, 8, 1]), strict=True)
    ]
    masks = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])

    def gradient(own, batch, mask):
        return torch.func.grad(lambda given: RKD()(Outputs(given, given), batch, mask, {})[0])(own)

    together = torch.vmap(gradient)(
        features, {name: torch.stack([b[name] for b in batches]) for name in batches[0]}, masks
    )
    for own, batch, mask, expected in zip(features, batches, masks, together, strict=True):
        torch.testing.assert_close(gradient(own, batch, mask), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["distance_weight", "angle_weight"])
@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_a_weight_that_is_negative_or_not_finite_is_refused(name, weight):
    with pytest.raises(ValueError, match=f"{name}={weight} must be finite and not negative"):
        RKD(**{name: weight})


def test_relations_are_needed_and_batches_judged_as_a_whole_with_the_weights_of_the_paper():
    assert RKD.needs == {"relations"}
    assert RKD.per_sample is False
    assert RKD().initial_state() == {}
    assert (RKD().distance_weight, RKD().angle_weight) == (25, 50)
