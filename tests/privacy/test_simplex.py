import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize

from fedfuse.privacy.simplex import project_to_simplex

ROWS = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=6)
INVARIANT = settings(max_examples=60, deadline=None, derandomize=True)


def project(values, dtype=torch.float64):
    return project_to_simplex(torch.tensor([values], dtype=dtype))[0]


def random_rows(rows=20, classes=5, size=1.0):
    return size * torch.randn(rows, classes, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.5, 0.5, 0.5], [1 / 3, 1 / 3, 1 / 3]),
        ([0.9, 0.3], [0.8, 0.2]),
        ([0.8, 0.6, -0.5], [0.6, 0.4, 0.0]),
        ([3.0, 0.0, 0.0], [1.0, 0.0, 0.0]),
        ([-5.0, -4.5], [0.25, 0.75]),
        ([7.0], [1.0]),
    ],
)
def test_projection_in_numbers(values, expected):
    assert project(values).tolist() == pytest.approx(expected)


@INVARIANT
@given(values=ROWS)
def test_projection_meets_the_conditions_of_the_nearest_point(values):
    # Karush-Kuhn-Tucker: one threshold is subtracted wherever something is left, and nothing above it is left out.
    row, projected = torch.tensor(values, dtype=torch.float64), project(values)
    tolerance = 1e-9 * max(1.0, row.abs().max().item())
    assert (projected >= 0).all()
    assert projected.sum().item() == pytest.approx(1, abs=1e-9)
    subtracted = (row - projected)[projected > 0]
    threshold = subtracted.mean()
    assert (subtracted - threshold).abs().max() <= tolerance
    assert (row[projected == 0] <= threshold + tolerance).all()


def test_projection_equals_a_search_for_the_threshold():
    for row in random_rows().numpy():
        threshold = brentq(lambda t, row=row: (row - t).clip(0).sum() - 1, row.min() - 1, row.max(), xtol=1e-14)
        assert project(row.tolist()).tolist() == pytest.approx((row - threshold).clip(0).tolist(), abs=1e-12)


def test_projection_equals_a_numeric_minimisation_of_the_distance():
    for row in random_rows(rows=5).numpy():
        nearest = minimize(
            lambda point, row=row: ((point - row) ** 2).sum(),
            x0=[0.2] * 5,
            bounds=[(0, 1)] * 5,
            constraints={"type": "eq", "fun": lambda point: point.sum() - 1},
            method="SLSQP",
            options={"ftol": 1e-12},
        ).x
        assert project(row.tolist()).tolist() == pytest.approx(nearest.tolist(), abs=1e-5)


def test_no_point_of_the_simplex_is_nearer():
    rows = random_rows()
    projected = project_to_simplex(rows)
    random = torch.Generator().manual_seed(1)
    others = torch.softmax(5 * torch.randn(200, 1, 5, generator=random, dtype=torch.float64), dim=2)
    assert ((others - rows).norm(dim=2) >= (projected - rows).norm(dim=1)).all()


@INVARIANT
@given(values=ROWS)
def test_projecting_again_changes_nothing(values):
    once = project(values)
    assert project(once.tolist()).tolist() == pytest.approx(once.tolist(), abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_on_the_simplex_come_back(dtype):
    rows = torch.cat([torch.softmax(random_rows(size=5.0), dim=1), torch.eye(5, dtype=torch.float64)]).to(dtype)
    projected = project_to_simplex(rows)
    assert projected.dtype == dtype
    torch.testing.assert_close(projected, rows, rtol=0, atol=1e-6 if dtype == torch.float32 else 1e-14)


@INVARIANT
@given(values=ROWS, constant=st.floats(-1e3, 1e3))
def test_a_constant_changes_nothing_and_classes_are_treated_alike(values, constant):
    projected = project(values).tolist()
    assert project([value + constant for value in values]).tolist() == pytest.approx(projected, abs=1e-8)
    assert project(values[::-1]).tolist() == pytest.approx(projected[::-1], abs=1e-9)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1e9, 0.0, 0.0], [1, 0, 0]),
        ([1e9, 1e9, -1e9], [0.5, 0.5, 0]),
        ([-3e38, 3e38], [0, 1]),
        ([1e6, 1e6 - 0.5], [0.75, 0.25]),
    ],
)
def test_large_values_lose_nothing_to_rounding(values, expected):
    assert project(values, torch.float32).tolist() == expected


def test_rows_are_left_alone():
    rows = random_rows()
    before = rows.clone()
    project_to_simplex(rows)
    assert torch.equal(rows, before)
