import pytest
import torch

from fedfuse.audit.detection import area_under_curve, chance_of_true_positive, true_positive_rate


def test_the_area_is_the_share_of_pairs_in_which_the_member_scores_higher_and_ties_count_half():
    # 3 > 1, 2, 2.5; 2 > 1 and ties with 2.
    area = area_under_curve(torch.tensor([3.0, 2.0]), torch.tensor([2.5, 1.0, 2.0]))
    assert area.item() == pytest.approx((3 + 1.5) / 6)


def test_rows_are_judged_by_themselves():
    members, others = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, -1.0], [1.0, 2.0]])
    assert area_under_curve(members, others).tolist() == [1.0, 0.0]
    assert true_positive_rate(members, others, 0.5).tolist() == [1.0, 0.0]


def test_so_many_false_positives_are_allowed_and_no_more():
    others = torch.arange(100.0)
    members = torch.tensor([99.5, 98.5, 97.5, 0.0])
    assert true_positive_rate(members, others, 0.0).item() == 0.25  # above 99
    assert true_positive_rate(members, others, 0.01).item() == 0.5  # above 98: one false positive
    assert true_positive_rate(members, others, 0.02).item() == 0.75
    assert true_positive_rate(torch.tensor([98.0]), others, 0.01).item() == 0.0  # a tie is not above


@pytest.mark.parametrize(("number", "rate", "chance"), [(99, 0.01, 0.01), (100, 0.01, 2 / 101), (50, 0.01, 1 / 51)])
def test_chance_is_what_scores_reach_that_tell_nothing(number, rate, chance):
    assert chance_of_true_positive(number, rate) == chance
    scores = torch.rand(20_000, number + 10, generator=torch.Generator().manual_seed(0))
    found = true_positive_rate(scores[:, number:], scores[:, :number], rate).mean().item()
    assert found == pytest.approx(chance, abs=0.001)
