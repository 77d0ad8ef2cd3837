from dataclasses import replace

import numpy as np
import pytest
import torch

from fedfuse.audit.audit import Evidence
from fedfuse.audit.canary import Canary, PlantedCanaries, _exposed
from fedfuse.client.client import Client, first_state
from fedfuse.client.state import ClientState
from fedfuse.data.federation import Federation, Shared, TransferSet
from fedfuse.data.samples import Samples
from fedfuse.errors import ConfigurationError

NUM_TRANSFER = 10
K = 20
MODELS = ("owner's model", "another client's student", "server model")


@pytest.fixture
def federation(make_clients, make_samples):
    """Three clients of 5, 17 and 16 samples in three classes."""
    shared = Shared(TransferSet(make_samples(NUM_TRANSFER, 1001).inputs), None, ("circle", "square", "star"))
    return Federation(shared, tuple(client.data for client in make_clients(sizes=(5, 17, 16))))


@pytest.fixture
def attack(federation, architectures, make_settings):
    """Return a function that makes the evidence of a run in which the owner sent some soft labels, and attacks it."""

    def make(
        audit, sent=None, fused=None, parameters=None, names=("small", "wide", "small"), learnt=None, absorb_epochs=2
    ):
        planted_federation, planted = audit.plant(replace(federation, clients=federation.clients[: len(names)]), 5)
        settings = make_settings(seed=5, transfer=planted_federation.shared.transfer)
        settings = replace(settings, absorb=replace(settings.absorb, epochs=absorb_epochs))
        clients = tuple(
            Client(number, architectures[name], data)
            for number, (name, data) in enumerate(zip(names, planted_federation.clients, strict=True))
        )
        states = {client.client_id: first_state(client, settings) for client in clients}
        if parameters is not None:
            states = {number: ClientState(parameters) for number in states}
        num_transfer = len(planted_federation.shared.transfer)
        rows = torch.arange(num_transfer)
        of_all = dict.fromkeys(states, ())
        evidence = Evidence(
            federation=planted_federation,
            clients=clients,
            settings=settings,
            shared={**of_all, planted.owner: tuple((rows, make(planted, num_transfer)) for make in sent or ())},
            fused=of_all
            if fused is None
            else dict.fromkeys(states, tuple((rows, make(planted, num_transfer)) for make in fused)),
            states=states,
            runner="auto",
            planted=planted,
            seed=5,
        )
        return {(one.subject, one.measure.partition("|R| ")[2]): one for one in audit.measure(evidence)}, planted

    return make


def nothing_special(planted, num_transfer):
    """Soft labels that tell nothing of canaries: random ones."""
    drawn = torch.from_numpy(np.random.default_rng(0).random((num_transfer, 3)))
    return drawn / drawn.sum(1, keepdim=True)


def all_told(planted, num_transfer):
    """Soft labels that are sure of each canary, and of nothing else."""
    soft_labels = torch.full((num_transfer, 3), 1 / 3, dtype=torch.float64)
    soft_labels[planted.probes[:K]] = 0.01
    soft_labels[planted.probes[:K], planted.labels] = 0.98
    return soft_labels


def test_each_canary_is_inserted_into_the_owners_training_data_as_often_as_it_says(federation):
    planted_federation, planted = Canary(canaries=K, counts=[1, 3]).plant(federation, 5)
    assert planted.owner == 1
    assert planted.counts.tolist() == [1, 3] * 10
    before, train = federation.clients[1].train, planted_federation.clients[1].train
    assert len(train) == len(before) + 40
    assert torch.equal(train.inputs[: len(before)], before.inputs)
    for canary in range(K):
        found = (train.inputs == planted.patterns[canary]).flatten(1).all(1)
        assert found.sum() == planted.counts[canary]
        assert set(train.labels[found].tolist()) == {planted.labels[canary].item()}
    assert planted_federation.clients[0] is federation.clients[0]
    assert planted_federation.clients[2] is federation.clients[2]
    assert set(planted.labels.tolist()) == {0, 1, 2}


def test_canaries_and_as_many_decoys_are_probes_in_this_order(federation):
    planted_federation, planted = Canary(canaries=K).plant(federation, 5)
    transfer = planted_federation.shared.transfer
    assert planted.probes.tolist() == list(range(NUM_TRANSFER, NUM_TRANSFER + 2 * K))
    assert torch.equal(transfer.inputs[planted.probes], planted.patterns[: 2 * K])
    assert torch.equal(transfer.inputs[:NUM_TRANSFER], federation.shared.transfer.inputs)


def test_without_probes_the_transfer_set_stays_and_the_rest_is_the_same(federation):
    planted_federation, planted = Canary(canaries=K, probed=False).plant(federation, 5)
    assert planted_federation.shared is federation.shared
    assert len(planted.probes) == 0
    assert torch.equal(planted.patterns, Canary(canaries=K).plant(federation, 5)[1].patterns)


def test_patterns_are_different_random_inputs_in_the_range_of_the_transfer_set(federation):
    _, planted = Canary(canaries=K, candidates=1000).plant(federation, 5)
    inputs = federation.shared.transfer.inputs
    assert len(planted.patterns) == K + 334  # of three classes, 334 patterns make at least 1,000 candidates
    assert len(planted.patterns.flatten(1).unique(dim=0)) == len(planted.patterns)
    assert (planted.patterns >= inputs.amin(0)).all()
    assert (planted.patterns <= inputs.amax(0)).all()
    assert ((planted.patterns - inputs.amin(0)) / (inputs.amax(0) - inputs.amin(0))).mean().item() == pytest.approx(
        0.5, abs=0.02
    )


def test_patterns_follow_from_the_seed(federation):
    first, again, other = (Canary().plant(federation, seed)[1] for seed in (1, 1, 2))
    assert torch.equal(first.patterns, again.patterns)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.patterns, other.patterns)


def test_patterns_of_pixels_are_bytes(federation):
    pixels = Samples(torch.zeros(40, 1, 4, 4, dtype=torch.uint8), torch.zeros(40, dtype=torch.int64))
    transfer = TransferSet(torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(0)))
    clients = (replace(federation.clients[0], train=pixels),)
    planted_federation, planted = Canary().plant(Federation(replace(federation.shared, transfer=transfer), clients), 5)
    assert planted.patterns.dtype == planted_federation.clients[0].train.inputs.dtype == torch.uint8
    assert planted.patterns.max() > 100
    probes = planted_federation.shared.transfer.inputs[planted.probes]
    assert torch.equal(probes, planted.patterns[:48] / 255)


def test_the_owner_can_be_chosen_among_those_that_there_are(federation):
    assert Canary(owner=0).plant(federation, 5)[1].owner == 0
    with pytest.raises(ConfigurationError, match=r"owner=3 must be one of the 3 clients, 0 to 2\."):
        Canary(owner=3).plant(federation, 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"canaries": 19}, "canaries=19 must be a whole number of at least 20"),
        ({"canaries": 20.5}, "canaries=20.5 must be"),
        ({"counts": []}, "counts must name at least one number"),
        ({"counts": [1, 0]}, "counts=0 must be a whole number of at least 1"),
        ({"candidates": 999}, "candidates=999 must be a whole number of at least 1000"),
        ({"control_epochs": 0}, "control_epochs=0 must be"),
        ({"owner": -1}, "owner=-1 must be a whole number of at least 0"),
    ],
)
def test_what_is_out_of_range_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Canary(**arguments)


def test_soft_labels_that_are_sure_of_canaries_expose_them_almost_wholly(attack):
    found, _ = attack(Canary(canaries=K, counts=[1, 3], control_epochs=60), sent=[nothing_special, all_told])
    sent = found["soft labels sent", "63"]
    # 20 decoys and a canary of three classes each: no other canary is a candidate, so all are first.
    told_alone, _ = attack(Canary(canaries=K, counts=[1, 3], control_epochs=60), sent=[all_told])
    assert told_alone["soft labels sent", "63"].value == pytest.approx(np.log2(63))
    assert told_alone["soft labels sent", "63"].low == told_alone["soft labels sent", "63"].high
    assert told_alone["soft labels sent", "63"].verdict == "leaks"
    assert 1.5 < sent.value < np.log2(63)  # the mean over both rounds
    assert sent.has_power
    assert {measure for subject, measure in found if subject == "soft labels sent"} == {
        "63",
        "63, inserted 1 x",
        "63, inserted 3 x",
    }


def test_soft_labels_that_tell_nothing_expose_nothing(attack):
    found, _ = attack(Canary(canaries=60, counts=[1], control_epochs=60), sent=[nothing_special])
    sent = found["soft labels sent", "183"]
    assert sent.floor == pytest.approx(np.log2(180) - np.log2(np.arange(1, 181)).mean())
    assert sent.low < sent.floor < sent.high
    assert sent.verdict == "no leak found"


def test_the_parts_by_count_make_up_the_whole(attack):
    found, _ = attack(Canary(canaries=K, counts=[2, 5], control_epochs=2), sent=[nothing_special])
    for subject, size in (("soft labels sent", "63"), ("owner's model", "1005")):
        whole, rare, often = (found[subject, f"{size}{words}"] for words in ("", ", inserted 2 x", ", inserted 5 x"))
        assert whole.value == pytest.approx((rare.value + often.value) / 2)
        assert whole.control == pytest.approx((rare.control + often.control) / 2)
        assert whole.floor == rare.floor == often.floor


def test_of_a_model_that_memorised_nothing_no_leak_is_found_although_the_control_has_power(attack):
    found, _ = attack(Canary(canaries=40, counts=[4], control_epochs=80))
    owner = found["owner's model", "1005"]
    assert owner.floor == pytest.approx(1.44, abs=0.35)
    assert owner.control > 2.5
    assert owner.verdict == "no leak found"


def test_a_control_that_learnt_nothing_has_no_power(attack):
    found, _ = attack(Canary(canaries=60, counts=[1], control_epochs=1))
    assert found["owner's model", "1005"].verdict == "no power"


def test_who_sends_no_soft_labels_is_attacked_in_models_only(attack):
    found, _ = attack(Canary(canaries=K, counts=[1], control_epochs=1))
    assert {subject for subject, _ in found} == {"owner's model", "another client's student"}


def test_common_weights_are_the_servers_model(attack, architectures):
    common = architectures["small"].initial_parameters(3, torch.float64)
    found, _ = attack(Canary(canaries=K, counts=[1], control_epochs=1), parameters=common, names=("small",) * 3)
    values = [found[subject, "1005"].value for subject in MODELS]
    assert values[0] == values[1] == values[2]


def test_students_are_all_others_on_average(attack):
    found, planted = attack(Canary(canaries=K, counts=[1], control_epochs=1))
    by_owner = {}
    for owner in range(3):
        by_owner[owner] = attack(Canary(canaries=K, counts=[1], control_epochs=1, owner=owner))[0]
    of_model = [by_owner[owner]["owner's model", "1005"] for owner in range(3)]
    students = found["another client's student", "1005"]
    assert planted.owner == 1
    # Initial models do not know who the owner is, so that the students of one are the owners of the other attacks.
    assert students.value == pytest.approx((of_model[0].value + of_model[2].value) / 2)
    assert students.floor == pytest.approx((of_model[0].floor + of_model[2].floor) / 2)


def test_the_server_model_learns_what_was_fused_last(attack):
    audit = Canary(canaries=K, counts=[1], control_epochs=60)
    told, _ = attack(audit, fused=[nothing_special, all_told], absorb_epochs=30)
    forgotten, _ = attack(audit, fused=[all_told, nothing_special], absorb_epochs=30)
    assert told["server model", "1005"].verdict == "leaks"
    assert forgotten["server model", "1005"].verdict == "no leak found"
    assert told["server model", "1005"].control > 3


def test_unprobed_patterns_are_not_looked_for_in_what_was_sent(attack):
    found, _ = attack(
        Canary(canaries=K, counts=[1], control_epochs=60, probed=False), sent=[nothing_special], fused=[nothing_special]
    )
    assert {subject for subject, _ in found} == set(MODELS)
    # The control of students is asked about the patterns even here: it shows that a student can be attacked at all.
    assert found["server model", "1005"].control > 3


def test_one_client_has_no_other(attack):
    found, _ = attack(Canary(canaries=K, counts=[1], control_epochs=1), sent=[nothing_special], names=("small",))
    assert {subject for subject, _ in found} == {"owner's model", "soft labels sent"}


def test_a_canary_is_ranked_among_its_own_labels_and_patterns_never_inserted_and_the_floor_is_that_of_decoys():
    planted = PlantedCanaries(0, torch.empty(0), torch.tensor([0, 1]), torch.tensor([1, 1]), torch.empty(0))
    canaries = [[0.7, 0.3], [0.9, 0.1]]
    decoys = [[0.4, 0.6], [0.55, 0.45]]
    unused = [[0.2, 0.8], [0.99, 0.01]]
    exposed = _exposed(planted, torch.tensor([*canaries, *decoys, *unused], dtype=torch.float64))
    assert exposed.num_candidates == 10
    # Behind 0.99 and 0.8; and behind the other label of its own pattern and all but the very last.
    assert exposed.canaries.tolist() == pytest.approx(np.log2([10 / 3, 10 / 9]).tolist())
    # Among the eight of decoys and unused ones: 0.4 is sixth, 0.6 third, 0.55 fourth, 0.45 fifth.
    assert exposed.floor == pytest.approx(np.log2([8 / 6, 8 / 3, 8 / 4, 8 / 5]).mean())
