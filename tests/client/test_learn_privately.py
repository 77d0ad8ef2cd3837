import logging
from dataclasses import replace

import pytest
import torch
from protection import EXPOSURE

from fedfuse.client.client import first_state
from fedfuse.client.failure import failure_of
from fedfuse.client.fit import FitResult
from fedfuse.client.learn import learn
from fedfuse.client.learn_privately import (
    DeltaTooLargeError,
    poisson_plan,
    private_jobs,
    private_training,
    spent_by,
)
from fedfuse.client.protect import UnprotectedError
from fedfuse.client.state import ClientState
from fedfuse.configuration import OptimizerSettings, TrainingSettings
from fedfuse.engine import sequential, stacked
from fedfuse.objectives.cross_entropy import CrossEntropy
from fedfuse.privacy.dp_sgd import DpSgd
from fedfuse.privacy.keystream import Keystream
from fedfuse.privacy.noise import Noise
from fedfuse.privacy.training_accountant import epsilon_of

SIZES = (1, 5, 0, 17, 40)
OPTIMIZER = OptimizerSettings("sgd", lr=0.1, momentum=0.5)


@pytest.fixture
def make_private(make_settings, make_clients):
    """Return a function that makes clients, their states and settings with private training."""

    def make(protector=None, names=("small",), num_rounds=3, **changes):
        settings = make_settings(
            protectors=(protector or DpSgd(noise_multiplier=1.5, clip=0.7, delta=1e-3),),
            exposure=replace(EXPOSURE, num_rounds=num_rounds, epochs=2, batch_size=4),
            learn=TrainingSettings(epochs=2, batch_size=4, optimizer=OPTIMIZER, proximal=0.2),
            secure_rng=False,
            **changes,
        )
        clients = make_clients(names, sizes=SIZES)
        return clients, [first_state(client, settings) for client in clients], settings

    return make


def jobs_of(clients, states, settings, round=1):
    return private_jobs(private_training(settings), clients, states, round, settings)


def test_only_cross_entropy_on_private_data_is_learnt_in_poisson_batches(make_private):
    clients, states, settings = make_private()
    jobs, _ = jobs_of(clients, states, settings)
    for client, job in zip(clients, jobs, strict=True):
        number, train = len(client.data.train), client.data.train
        assert [(term.stream, term.objective, term.weight) for term in job.terms] == [("private", CrossEntropy(), 1.0)]
        assert list(job.streams) == ["private"]
        assert job.streams["private"].tensors == {"inputs": train.inputs, "labels": train.labels}
        assert len(job.streams["private"].plan) == 2 * -(-number // 4)
        assert (job.private.clip, job.private.expected_batch_size) == (0.7, max(1, min(4, number)))
        assert job.private.noise_multiplier == 1.5 or number == 0
        assert (job.optimizer, job.proximal) == (OPTIMIZER, 0.2)
    assert len({job.streams["private"].plan.shape[1] for job in jobs}) == 1


def test_learn_trains_privately_where_a_protector_does_and_only_there(make_private):
    clients, states, settings = make_private()
    taken = []

    def fit(jobs):
        taken.extend(job.private for job in jobs)
        return [FitResult(job.parameters, job.objective_state) for job in jobs]

    learnt = learn(clients, states, 1, settings, fit)
    assert None not in taken
    assert len(learnt[3].privacy.spent) == 1
    taken.clear()
    learn(clients, states, 1, replace(settings, protectors=(Noise(),)), fit)
    assert taken == [None] * 5


def test_all_runners_give_the_same_weights(make_private):
    clients, states, settings = make_private()
    together, alone = (learn(clients, states, 1, settings, fit) for fit in (stacked.fit, sequential.fit))
    for one, other in zip(together, alone, strict=True):
        for name, tensor in one.parameters.items():
            torch.testing.assert_close(tensor, other.parameters[name], rtol=0, atol=1e-10)


def test_the_same_request_is_answered_with_the_same_draws_and_another_with_others(make_private):
    clients, states, settings = make_private()
    row = 4

    def draws(answered="a", round=1, secure=False, client=row):
        state = replace(states[client], privacy=replace(states[client].privacy, answered=answered))
        (job,), _ = jobs_of([clients[client]], [state], replace(settings, secure_rng=secure), round)
        return tuple(job.streams["private"].plan.flatten().tolist()), tuple(job.private.noise.integers(3).tolist())

    assert draws() == draws()
    for other in (draws("b"), draws(round=2)):
        assert other[0] != draws()[0]
        assert other[1] != draws()[1]
    # Where a run is only simulated the key comes from the seed, and all is drawn as it would be otherwise.
    assert draws(secure=True) == draws()


def test_the_ledger_grows_by_every_round_and_survives_in_the_state(make_private):
    clients, states, settings = make_private()
    for round in (1, 2):
        _, states = jobs_of(clients, states, settings, round)
    assert [state.privacy.spent for state in states] == [
        ((1.0, 1.5, 4),),
        ((0.8, 1.5, 8),),
        (),
        ((4 / 17, 1.5, 20),),
        ((0.1, 1.5, 40),),
    ]
    kept = ClientState.from_dict(states[4].to_dict())
    assert spent_by(kept, 1e-3, "pld") == epsilon_of([(0.1, 1.5, 40)], 1e-3, "pld") > 0
    _, (changed,) = jobs_of(
        clients[4:], states[4:], replace(settings, protectors=(DpSgd(noise_multiplier=2.0, delta=1e-3),))
    )
    assert changed.privacy.spent == ((0.1, 1.5, 40), (0.1, 2.0, 20))


def test_noise_calibrated_to_fewer_rounds_before_is_not_followed_by_more_rounds(make_private):
    protector = DpSgd(epsilon=4.0, delta=1e-2, accountant="rdp")
    clients, states, settings = make_private(protector)
    _, states = jobs_of(clients, states, settings)
    _, again = jobs_of(clients, states, settings, 2)
    assert len(again[4].privacy.spent) == 1
    fewer, more = (replace(settings, exposure=replace(settings.exposure, num_rounds=rounds)) for rounds in (2, 4))
    _, fewer_states = jobs_of(clients, states, fewer, 2)
    assert spent_by(fewer_states[4], 1e-2, "rdp") <= 4.0
    with pytest.raises(UnprotectedError, match="more rounds"):
        jobs_of(clients, states, more, 2)


def test_too_large_a_delta_is_refused_without_telling_how_many_examples_there_are(make_private):
    clients, states, settings = make_private(DpSgd(noise_multiplier=1.0, delta=1 / 39))
    jobs_of(clients[:4], states[:4], settings)
    with pytest.raises(DeltaTooLargeError) as raised:
        jobs_of(clients, states, settings)
    failure = failure_of(raised.value)
    assert failure.code == "delta-too-large"
    assert "lower delta" in failure.text
    assert not any(character.isdigit() for character in failure.text)


def test_what_is_spent_is_logged_at_the_client(make_private, caplog):
    clients, states, settings = make_private()
    with caplog.at_level(logging.INFO, logger="fedfuse.client.learn_privately"):
        jobs_of(clients[4:], states[4:], settings, 1)
    epsilon = epsilon_of([(0.1, 1.5, 20)], 1e-3, "rdp")
    assert caplog.messages == [f"client 4, round 1: epsilon {epsilon:.4g} is spent"]


def test_every_sample_enters_every_step_with_the_same_probability_independently():
    plan = poisson_plan(Keystream(bytes(32), "test"), 50, 0.2, 4000)
    entered = torch.zeros(4000, 51)
    entered.scatter_(1, torch.where(plan < 0, 50, plan), 1.0)
    entered = entered[:, :50]
    sizes = (plan >= 0).sum(1)
    assert plan.shape[1] == sizes.max()
    assert torch.equal(sizes, entered.sum(1).long())
    # Five standard deviations.
    assert (entered.mean(0) - 0.2).abs().max() < 5 * (0.16 / 4000) ** 0.5
    assert abs(sizes.double().var().item() - 50 * 0.16) < 5 * 8 * (2 / 4000) ** 0.5
    correlations = torch.corrcoef(entered.t()) - torch.eye(50)
    assert correlations.abs().max() < 5 / 4000**0.5


def test_batches_are_ascending_and_padded_at_the_end():
    for batch in poisson_plan(Keystream(bytes(32), "test"), 20, 0.3, 30).tolist():
        chosen = [row for row in batch if row >= 0]
        assert batch == sorted(set(chosen)) + [-1] * (len(batch) - len(chosen))


def test_few_numbers_at_once_give_the_same_plan(monkeypatch):
    expected = poisson_plan(Keystream(bytes(32), "test"), 20, 0.3, 30)
    for number in (1, 45, 20 * 29):
        monkeypatch.setattr("fedfuse.client.learn_privately.NUMBERS_AT_ONCE", number)
        assert torch.equal(poisson_plan(Keystream(bytes(32), "test"), 20, 0.3, 30), expected)


def test_at_rate_one_all_enter_and_no_samples_give_no_rows():
    assert poisson_plan(Keystream(bytes(32), "test"), 3, 1.0, 2).tolist() == [[0, 1, 2]] * 2
    assert poisson_plan(Keystream(bytes(32), "test"), 0, 1.0, 0).shape == (0, 1)
    assert poisson_plan(Keystream(bytes(32), "test"), 0, 1.0, 2).tolist() == [[-1]] * 2
    assert poisson_plan(Keystream(bytes(32), "test"), 2, 1e-9, 3).tolist() == [[-1]] * 3
