import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfuse.randomness import derive, epoch_order, numpy_generator, torch_seed

INTEGERS = st.integers(0, 2**40)
STREAMS = st.tuples(INTEGERS, st.text("ab01/", max_size=6), INTEGERS, INTEGERS)


@pytest.mark.parametrize(
    ("stream", "key"),
    [
        ((0, "learn"), 208348693384433593356972327576618353223),
        ((7, "absorb", 3, 12), 54709135818677254006029339596381517449),
    ],
)
def test_keys_never_change_because_old_runs_must_stay_reproducible(stream, key):
    assert derive(*stream) == key


def test_draws_never_change():
    assert torch_seed(7, "absorb", 3, 12) == 1482894097735360124
    raw = numpy_generator(0, "learn").bit_generator.random_raw(3)
    assert raw.tolist() == [7976476020453780401, 10480460499908623383, 4256083297714793537]
    assert numpy_generator(7, "absorb", 3, 12).random(2).tolist() == [0.8733298957357174, 0.84517121840272]


def test_generator_is_counter_based():
    assert isinstance(numpy_generator(0, "learn").bit_generator, np.random.Philox)


def test_round_and_client_are_zero_where_there_is_none():
    assert derive(3, "data") == derive(3, "data", 0, 0) == derive(3, "data", round=0, client=0)


def test_seed_purpose_round_and_client_each_make_another_stream():
    streams = list(itertools.product((0, 1, 10), ("learn", "absorb"), (0, 1, 2, 11), (0, 1, 2, 11)))
    assert len({derive(*stream) for stream in streams}) == len(streams)
    assert len({torch_seed(*stream) for stream in streams}) == len(streams)
    first_draws = {numpy_generator(*stream).random() for stream in streams}
    assert len(first_draws) == len(streams)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(one=STREAMS, other=STREAMS)
def test_streams_with_different_names_have_different_keys(one, other):
    assert (derive(*one) == derive(*other)) == (one == other)
    assert 0 <= derive(*one) < 2**128
    assert 0 <= torch_seed(*one) < 2**63


def test_purposes_that_look_like_other_fields_make_other_streams():
    assert derive(1, "a/2", 3, 4) != derive(1, "a", 2, 34)
    assert derive(1, "1/1", 1, 1) != derive(11, "1", 1, 1)


def test_torch_takes_the_seed():
    torch.Generator().manual_seed(torch_seed(0, "learn"))


def test_a_stream_does_not_depend_on_draws_from_another():
    undisturbed = numpy_generator(0, "learn", 1, 5).random(4)
    numpy_generator(0, "learn", 1, 4).random(1000)
    assert (numpy_generator(0, "learn", 1, 5).random(4) == undisturbed).all()


def test_epoch_orders_never_change():
    assert epoch_order(numpy_generator(0, "learn"), 5, 3).tolist() == [
        [0, 2, 3, 4, 1],
        [2, 1, 0, 3, 4],
        [3, 0, 1, 2, 4],
    ]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), num_samples=st.integers(0, 40), epochs=st.integers(1, 5))
def test_every_epoch_visits_every_sample_once(seed, num_samples, epochs):
    orders = epoch_order(numpy_generator(seed, "learn"), num_samples, epochs)
    assert orders.dtype == torch.int64
    assert orders.sort(dim=1).values.tolist() == [list(range(num_samples))] * epochs


def test_epochs_are_ordered_differently():
    orders = epoch_order(numpy_generator(0, "learn"), 20, 10)
    assert len({tuple(order) for order in orders.tolist()}) == 10
