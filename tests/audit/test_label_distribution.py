import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from fedfuse.audit.audit import Evidence
from fedfuse.audit.label_distribution import SMOOTHING, LabelDistribution, divergences, label_mixes, prior_of
from fedfuse.client.client import first_state
from fedfuse.data.federation import Federation, Shared
from fedfuse.privacy.noise import Noise

MIXES = torch.tensor([[0.8, 0.2, 0.0], [0.0, 0.5, 0.5], [0.3, 0.3, 0.4], [0.1, 0.0, 0.9]], dtype=torch.float64)


def test_clients_that_are_sure_give_their_label_mix_away():
    answers = [
        torch.eye(3, dtype=torch.float64)[[0] * 5 + [1] * 5],
        torch.eye(3, dtype=torch.float64)[[1] * 4 + [2] * 6],
    ]
    means = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.4, 0.6]], dtype=torch.float64)
    ratio = means / means.mean(0)
    torch.testing.assert_close(label_mixes(answers, 0.7), ratio / ratio.sum(1, keepdim=True))
    torch.testing.assert_close(prior_of(answers), torch.tensor([0.25, 0.45, 0.3], dtype=torch.float64))


def test_a_temperature_hides_nothing():
    logits = (
        3 * torch.from_numpy(np.random.default_rng(0).normal(size=(2, 50, 3)))
        + 3 * torch.log(MIXES[[0, 3]] + 0.1)[:, None]
    )
    plain = list(torch.softmax(logits, dim=2))
    assert torch.cat(plain).amax(1).mean() > 0.8
    softened = list(torch.softmax(logits / 8, dim=2))
    assert torch.cat(softened).amax(1).mean() < 0.6
    confidence = torch.cat(plain).amax(1).mean().item()
    torch.testing.assert_close(label_mixes(softened, confidence), label_mixes(plain, confidence), atol=1e-6, rtol=0)


def test_surer_answers_stay_as_they_are():
    answers = [
        torch.tensor([[0.9, 0.1], [0.8, 0.2]], dtype=torch.float64),
        torch.tensor([[0.1, 0.9]], dtype=torch.float64),
    ]
    torch.testing.assert_close(label_mixes(answers, 0.5), label_mixes(answers, 0.85))


def test_the_divergence_is_that_of_smoothed_mixes():
    found = divergences(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.5]])).item()
    rare = SMOOTHING / 2
    assert found == pytest.approx((1 - rare) * math.log(2 * (1 - rare)) + rare * math.log(2 * rare))
    assert divergences(MIXES, MIXES).tolist() == [0.0] * 4


@pytest.fixture
def evidence(make_clients, make_settings):
    """Return a function that makes the evidence of a run in which four clients sent what a function says."""

    def make(answers_of, **changes):
        settings = make_settings(protectors=(Noise(0.5),), **changes)
        clients = make_clients(sizes=(40, 30, 20, 25))
        data = []
        for client, mix in zip(clients, MIXES, strict=True):
            counts = (len(client.data.train) * mix).round().long()
            labels = torch.repeat_interleave(torch.arange(3), counts)
            generator = torch.Generator().manual_seed(client.client_id)
            inputs = 0.3 * torch.randn(len(labels), 1, 4, 4, generator=generator, dtype=torch.float64)
            inputs[torch.arange(len(labels)), :, :, labels] += 1
            data.append(replace(client.data, train=type(client.data.train)(inputs, labels)))
        clients = tuple(replace(client, data=own) for client, own in zip(clients, data, strict=True))
        return Evidence(
            federation=Federation(Shared(settings.transfer, None, settings.class_names), tuple(data)),
            clients=clients,
            settings=settings,
            shared={one.client_id: answers_of(one.client_id) for one in clients},
            fused={one.client_id: () for one in clients},
            states={one.client_id: first_state(one, settings) for one in clients},
            runner="auto",
            planted=None,
            seed=3,
        )

    return make


def shares(mix, num_transfer=10):
    """One-hot answers with this label mix."""
    counts = (num_transfer * mix).round().long()
    return torch.eye(3, dtype=torch.float64)[torch.repeat_interleave(torch.arange(3), counts)]


def test_who_tells_all_is_found_out_and_the_control_has_power(evidence):
    rows = torch.arange(10)
    share, divergence = LabelDistribution().measure(evidence(lambda client: ((rows, shares(MIXES[client])),)))
    assert share.value > 0.8 and share.low > 0.5 and share.verdict == "leaks"
    assert share.control > 0.3 and share.has_power
    assert divergence.value < divergence.floor and divergence.verdict == "leaks"
    assert share.value == pytest.approx(1 - divergence.value / divergence.floor)


def test_who_all_answer_alike_tell_nothing(evidence):
    rows = torch.arange(10)
    share, divergence = LabelDistribution().measure(evidence(lambda client: ((rows, shares(MIXES[2])),)))
    uniform, prior = torch.full((1, 3), 1 / 3, dtype=torch.float64), MIXES[2:3]
    true = torch.stack(
        [torch.bincount(one.data.train.labels, minlength=3).double() for one in evidence(lambda client: ()).clients]
    )
    true /= true.sum(1, keepdim=True)
    of_uniform = divergences(true, uniform.expand_as(true)).mean().item()
    of_prior = divergences(true, prior.expand_as(true)).mean().item()
    assert (divergence.value, divergence.floor) == (pytest.approx(of_uniform), pytest.approx(of_prior))
    assert share.value == pytest.approx(1 - of_uniform / of_prior)
    assert share.verdict == "no leak found"


def test_only_the_first_rounds_and_the_rows_that_were_answered_count(evidence):
    some, rest = torch.tensor([1, 2, 8]), torch.arange(10)
    told = {client: torch.eye(3, dtype=torch.float64)[[client % 3] * 3] for client in range(4)}
    noise = torch.full((10, 3), 1 / 3, dtype=torch.float64)
    audit = LabelDistribution(rounds=1, confidence=0.5)
    first = audit.measure(evidence(lambda client: ((some, told[client]), (rest, noise))))
    second = audit.measure(evidence(lambda client: ((some, told[client]),)))
    assert first == second
    both = LabelDistribution(rounds=2, confidence=0.5).measure(
        evidence(lambda client: ((some, told[client]), (rest, noise)))
    )
    assert both[1].value != first[1].value


def test_without_soft_labels_there_is_nothing_to_attack(evidence):
    assert LabelDistribution().measure(evidence(lambda client: ())) == ()
    assert LabelDistribution().needs == {"soft_labels"}


def test_nothing_is_planted(evidence):
    federation = evidence(lambda client: ()).federation
    assert LabelDistribution().plant(federation, 0) == (federation, None)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"rounds": 0}, "rounds=0 must be at least 1"),
        ({"confidence": 1.0}, "confidence=1.0 must be above 0 and below 1"),
        ({"control_epochs": 0}, "control_epochs=0 must be at least 1"),
    ],
)
def test_numbers_out_of_range_are_refused(values, words):
    with pytest.raises(ValueError, match=words):
        LabelDistribution(**values)
