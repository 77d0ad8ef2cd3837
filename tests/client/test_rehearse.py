from dataclasses import replace
from functools import partial

import pytest
import torch

from fedfuse.client.absorb import absorb
from fedfuse.client.client import Client, first_state
from fedfuse.client.learn import learn
from fedfuse.client.rehearse import FIRST_SHARE, SHARE, remember_shares, share_of_labels
from fedfuse.client.state import ABSORBED, ClientState, DirectoryStore, Generation
from fedfuse.configuration import CLOSED_FORM, OptimizerSettings, TrainingSettings
from fedfuse.data.samples import Samples
from fedfuse.engine import sequential, stacked
from fedfuse.messages import Request
from fedfuse.models.architecture import describe
from fedfuse.models.fused_head import with_fused_head
from fedfuse.models.mlp import MLP
from fedfuse.objectives.closed_form import closed_form_weight


@pytest.fixture
def settings_of(make_settings):
    """Return a function that makes settings with this share of the labels while clients absorb."""

    def make(rehearse, **others):
        training = TrainingSettings(2, 4, OptimizerSettings("sgd", lr=0.1), rehearse=rehearse)
        return make_settings(absorb=training, **others)

    return make


@pytest.fixture
def two_headed():
    build = partial(MLP, (1, 4, 4), 3, hidden=(6,), embedding_size=5)
    return describe("two", partial(with_fused_head, build, 5, 3), (1, 4, 4))


def probabilities_of(client, state, head="logits"):
    model = client.architecture.module().double()
    model.load_state_dict(state.parameters)
    model.eval()
    with torch.no_grad():
        return torch.softmax(getattr(model(client.data.validation.inputs), head), dim=1)


def shares_of(states):
    return [state.objective_state[SHARE].item() for state in states]


def clipped(weight):
    return min(max(weight, 0.0), 1.0)


def right_model(client, scale):
    """Weights with which a client's model answers its first validation samples' class, everywhere."""
    parameters = {name: torch.zeros_like(tensor) for name, tensor in first_parameters(client).items()}
    parameters["head.bias"] = torch.tensor([scale, 0, -scale], dtype=torch.float64)
    return ClientState(parameters)


def first_parameters(client):
    return client.architecture.initial_parameters(client.client_id, torch.float64)


def test_a_share_that_is_given_is_the_share_whatever_is_remembered(settings_of):
    state = ClientState({}, {SHARE: torch.tensor(0.9)})
    assert share_of_labels(state, settings_of(0.3)) == 0.3
    assert share_of_labels(state, settings_of(0)) == 0


def test_before_anything_is_known_both_count_alike_and_then_what_is_remembered(settings_of):
    settings = settings_of(CLOSED_FORM)
    assert share_of_labels(ClientState({}), settings) == FIRST_SHARE == 0.5
    assert share_of_labels(ClientState({}, {SHARE: torch.tensor(0.25)}), settings) == 0.25


def test_each_client_remembers_the_best_share_between_its_answers_before_and_after(make_clients, settings_of):
    clients, settings = make_clients(("small",)), settings_of(CLOSED_FORM)
    before = [first_state(client, settings) for client in clients]
    after = [replace(state, parameters=first_parameters(client)) for client, state in zip(clients, before, strict=True)]
    remembered = remember_shares(clients, before, after, settings)
    raw = [
        closed_form_weight(
            probabilities_of(client, first), probabilities_of(client, last), client.data.validation.labels
        )
        for client, first, last in zip(clients, before, after, strict=True)
    ]
    assert shares_of(remembered) == pytest.approx([clipped(weight) for weight in raw], rel=1e-9)
    assert len({*shares_of(remembered)}) > 2
    for state, last in zip(remembered, after, strict=True):
        assert state.parameters is last.parameters


@pytest.mark.parametrize(("first", "last", "share"), [(1.0, 0.5, 1), (0.5, 1.0, 0)])
def test_where_going_beyond_one_of_the_two_would_fit_best_the_share_is_all_or_nothing(
    make_clients, make_samples, settings_of, first, last, share
):
    # Both find the class of every sample likeliest, so the surer of them is not sure enough.
    (client,) = make_clients(("small",), sizes=(5,))
    validation = Samples(make_samples(4).inputs, torch.zeros(4, dtype=torch.int64))
    client = replace(client, data=replace(client.data, validation=validation))
    before, after = right_model(client, first), right_model(client, last)
    weight = closed_form_weight(probabilities_of(client, before), probabilities_of(client, after), validation.labels)
    assert not 0 <= weight <= 1
    assert shares_of(remember_shares([client], [before], [after], settings_of(CLOSED_FORM))) == [share]


def test_of_a_model_with_a_fused_head_its_two_answers_after_are_compared(make_clients, two_headed, settings_of):
    settings = settings_of(CLOSED_FORM)
    clients = [Client(client.client_id, two_headed, client.data) for client in make_clients(("small",))]
    before = [first_state(client, settings) for client in clients]
    after = [ClientState({name: 3 * tensor for name, tensor in first_parameters(client).items()}) for client in clients]
    expected = [
        closed_form_weight(
            probabilities_of(client, last),
            probabilities_of(client, last, "fused_logits"),
            client.data.validation.labels,
        )
        for client, last in zip(clients, after, strict=True)
    ]
    shares = shares_of(remember_shares(clients, before, after, settings))
    assert shares == pytest.approx([clipped(weight) for weight in expected], rel=1e-9)
    assert any(0 < share < 1 for share in shares)


def test_a_client_without_validation_samples_lets_both_count_alike(make_clients, make_samples, settings_of):
    (client,) = make_clients(("small",), sizes=(5,))
    client = replace(client, data=replace(client.data, validation=make_samples(0)))
    settings = settings_of(CLOSED_FORM)
    before, after = first_state(client, settings), ClientState(first_parameters(client))
    assert shares_of(remember_shares([client], [before], [after], settings)) == [0.5]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_share_has_the_type_of_the_run_and_other_memory_is_kept(make_clients, settings_of, dtype):
    clients = make_clients(("small",), sizes=(5, 7), dtype=dtype)
    settings = settings_of(CLOSED_FORM, dtype=dtype)
    memory = {"transfer.0.t": torch.tensor(0.7), SHARE: torch.tensor(0.125, dtype=dtype)}
    before = [first_state(client, settings) for client in clients]
    after = [
        replace(state, parameters=client.architecture.initial_parameters(9, dtype), objective_state=memory)
        for client, state in zip(clients, before, strict=True)
    ]
    for state in remember_shares(clients, before, after, settings):
        assert set(state.objective_state) == set(memory)
        assert state.objective_state["transfer.0.t"] is memory["transfer.0.t"]
        assert state.objective_state[SHARE].dtype == dtype
        assert state.objective_state[SHARE] != 0.125


# -- in the rounds of a client -----------------------------------------------------------------------------------------


def noting(fit, noted):
    """Note the shares that the losses on the two streams count, for each client."""

    def noting_fit(jobs):
        for job in jobs:
            noted.append({name: stream.constants["scale"].item() for name, stream in job.streams.items()})
        return fit(jobs)

    return noting_fit


def absorb_round(round, clients, states, settings, fused, fit):
    request = Request(round=round, fused={"soft_labels": fused}, fused_round=round)
    return absorb(clients, states, [request] * len(clients), settings, fit)


@pytest.mark.parametrize("fit", [sequential.fit, stacked.fit])
def test_what_was_found_after_a_round_counts_in_the_next(make_clients, settings_of, fused_soft_labels, tmp_path, fit):
    clients, settings, noted = make_clients(("small",)), settings_of(CLOSED_FORM), []
    states = [first_state(client, settings) for client in clients]
    learnt = learn(clients, states, 1, settings, fit)
    absorbed = absorb_round(1, clients, learnt, settings, fused_soft_labels(), noting(fit, noted))
    assert noted == [{"transfer": 0.5, "private": 0.5}] * len(clients)
    expected = remember_shares(clients, learnt, absorbed, settings)
    assert shares_of(absorbed) == shares_of(expected)
    assert len(set(shares_of(absorbed))) > 1

    kept = []
    for client, state in zip(clients, absorbed, strict=True):
        store = DirectoryStore(tmp_path / str(client.client_id))
        store.save(client.client_id, Generation(1, ABSORBED), state)
        kept.append(DirectoryStore(tmp_path / str(client.client_id)).load(client.client_id, Generation(1, ABSORBED)))
    learnt = learn(clients, kept, 2, settings, fit)
    assert shares_of(learnt) == shares_of(absorbed)
    noted.clear()
    absorb_round(2, clients, learnt, settings, fused_soft_labels(seed=1), noting(fit, noted))
    shares = shares_of(absorbed)
    assert [own["private"] for own in noted] == shares
    assert [own["transfer"] for own in noted] == [1 - share for share in shares]


def test_with_a_share_that_is_given_none_is_looked_for(make_clients, settings_of, fused_soft_labels):
    clients, settings, noted = make_clients(("small",), sizes=(5, 7)), settings_of(0.25), []
    states = [first_state(client, settings) for client in clients]
    fit = noting(sequential.fit, noted)
    absorbed = absorb_round(1, clients, states, settings, fused_soft_labels(), fit)
    assert noted == [{"transfer": 0.75, "private": 0.25}] * 2
    assert not any(SHARE in state.objective_state for state in absorbed)


def test_both_runners_find_the_same_shares(make_clients, settings_of, fused_soft_labels):
    clients, settings = make_clients(("small",)), settings_of(CLOSED_FORM)
    found = []
    for fit in (sequential.fit, stacked.fit):
        states = [first_state(client, settings) for client in clients]
        for round in (1, 2):
            learnt = learn(clients, states, round, settings, fit)
            states = absorb_round(round, clients, learnt, settings, fused_soft_labels(seed=round), fit)
        found.append(shares_of(states))
    assert found[0] == pytest.approx(found[1], abs=1e-8)
