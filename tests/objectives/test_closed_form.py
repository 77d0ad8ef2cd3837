import pytest
import torch

from fedfuse.objectives.closed_form import closed_form_weight


def random_answers(rows, classes, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.softmax(2 * torch.randn(rows, classes, generator=generator, dtype=torch.float64), dim=1)


def error(weight, from_labels, from_fused, labels):
    mixed = weight * from_labels + (1 - weight) * from_fused
    return (mixed - torch.nn.functional.one_hot(labels, mixed.shape[1])).square().sum().item()


@pytest.mark.parametrize("seed", range(5))
def test_no_weight_of_a_fine_grid_fits_better(seed):
    answers = random_answers(20, 4, seed), random_answers(20, 4, seed + 10)
    labels = torch.randint(4, (20,), generator=torch.Generator().manual_seed(seed))
    weight = closed_form_weight(*answers, labels)
    grid = torch.linspace(-2, 3, 5001, dtype=torch.float64).tolist()
    best = min(grid, key=lambda candidate: error(candidate, *answers, labels))
    assert weight == pytest.approx(best, abs=5e-4)
    assert error(weight, *answers, labels) <= error(best, *answers, labels)


def test_weight_in_numbers():
    # The truth is (1, 0); a quarter of the way from one answer to the other there would be (0.65, 0.35), and so on.
    from_labels, from_fused = torch.tensor([[0.8, 0.2]]), torch.tensor([[0.6, 0.4]])
    assert closed_form_weight(from_labels, from_fused, torch.tensor([0])) == pytest.approx(2)
    assert closed_form_weight(from_labels, from_fused, torch.tensor([1])) == pytest.approx(-3)
    # The one errs where the other is right, and as far.
    both = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    assert closed_form_weight(*both, torch.tensor([0, 1])) == pytest.approx(0.5)


def test_who_is_right_gets_all_the_weight_and_changing_places_the_rest():
    right, wrong = torch.eye(3)[[0, 2, 1]], random_answers(3, 3, 0).float()
    labels = torch.tensor([0, 2, 1])
    assert closed_form_weight(right, wrong, labels) == pytest.approx(1)
    assert closed_form_weight(wrong, right, labels) == pytest.approx(0, abs=1e-12)
    one, other = random_answers(5, 3, 1), random_answers(5, 3, 2)
    labels = torch.tensor([0, 1, 2, 0, 1])
    assert closed_form_weight(one, other, labels) == pytest.approx(1 - closed_form_weight(other, one, labels))


def test_what_agrees_up_to_rounding_is_weighed_alike():
    answers = random_answers(6, 3, 0)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    assert closed_form_weight(answers, answers, labels) == 0.5
    assert closed_form_weight(answers, answers + 1e-8, labels) == 0.5
    assert closed_form_weight(answers, answers + 1e-4 * torch.tensor([1, 0, -1]), labels) != 0.5


def test_without_samples_the_two_are_weighed_alike():
    assert closed_form_weight(torch.empty(0, 3), torch.empty(0, 3), torch.empty(0, dtype=torch.int64)) == 0.5


def test_float32_answers_are_weighed_as_exactly():
    answers = random_answers(20, 4, 0).float(), random_answers(20, 4, 1).float()
    labels = torch.arange(20) % 4
    expected = closed_form_weight(*(answer.double() for answer in answers), labels)
    assert closed_form_weight(*answers, labels) == expected
