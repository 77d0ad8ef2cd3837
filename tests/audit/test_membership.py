from dataclasses import replace

import numpy as np
import pytest
import torch

from fedfuse.audit.audit import Evidence, plant, probe_flags
from fedfuse.audit.canary import Canary
from fedfuse.audit.detection import area_under_curve, chance_of_true_positive, true_positive_rate
from fedfuse.audit.membership import MODEL, SENT, Membership, PlantedPools, halves
from fedfuse.audit.shadows import Course, Lived, live_together
from fedfuse.client.client import Client
from fedfuse.configuration import OptimizerSettings, TrainingSettings
from fedfuse.data.federation import Federation, Shared, TransferSet
from fedfuse.data.samples import Samples
from fedfuse.privacy.noise import Noise

NUM_TRANSFER = 10
NAMES = ("wide", "small", "wide")
LEARN = TrainingSettings(epochs=60, batch_size=8, optimizer=OptimizerSettings("adam", lr=0.02))


def rows_of(samples):
    return {row.numpy().tobytes() for row in samples.inputs}


def labels_of(samples):
    rows = (row.numpy().tobytes() for row in samples.inputs)
    return dict(zip(rows, samples.labels.tolist(), strict=True))


@pytest.fixture
def federation(make_clients, make_samples):
    """Three clients whose labels are drawn at random, so that they can only be learnt by heart."""
    shared = Shared(TransferSet(make_samples(NUM_TRANSFER, 1001).inputs), None, ("circle", "square", "star"))
    data = []
    for client in make_clients(sizes=(40, 41, 30)):
        generator = torch.Generator().manual_seed(client.client_id)
        labels = torch.randint(3, (len(client.data.train),), generator=generator)
        data.append(replace(client.data, train=Samples(client.data.train.inputs, labels)))
    return Federation(shared, tuple(data))


@pytest.fixture
def run(federation, architectures, make_settings):
    """Return a function that makes the evidence of a run of two rounds after planting."""

    def make(audit, **changes):
        planted_federation, planted = audit.plant(federation, 5)
        settings = make_settings(seed=5, transfer=planted_federation.shared.transfer, learn=LEARN, **changes)
        clients = tuple(
            Client(number, architectures[name], data)
            for number, (name, data) in enumerate(
                zip(("wide", "small", "wide"), planted_federation.clients, strict=True)
            )
        )
        rows = torch.arange(len(settings.transfer))
        fused = (rows, torch.full((len(rows), 3), 1 / 3, dtype=settings.dtype))
        lived = live_together(clients, [Course((rows, rows), (fused,))] * 3, settings, "auto")
        return Evidence(
            federation=planted_federation,
            clients=clients,
            settings=settings,
            shared={number: one.shared for number, one in enumerate(lived)},
            fused=dict.fromkeys(range(3), (fused,)),
            states={number: one.state for number, one in enumerate(lived)},
            runner="auto",
            planted=planted,
            seed=5,
        )

    return make


def test_half_of_each_pool_is_taken_out_and_all_of_it_is_asked_for(federation):
    planted_federation, planted = Membership(pool=0.5).plant(federation, 5)
    transfer = planted_federation.shared.transfer
    assert [len(pool.samples) for pool in planted.pools] == [20, 20, 14]
    assert len(transfer) == NUM_TRANSFER + 54
    assert torch.equal(transfer.inputs[:NUM_TRANSFER], federation.shared.transfer.inputs)
    for pool, before, after in zip(planted.pools, federation.clients, planted_federation.clients, strict=True):
        assert torch.equal(transfer.inputs[pool.rows], pool.samples.inputs)
        members, others = pool.samples.select(pool.members), pool.samples.select(~pool.members)
        assert len(members) == len(others) == len(pool.samples) // 2
        assert rows_of(after.train) == rows_of(before.train) - rows_of(others)
        assert rows_of(after.train) == rows_of(pool.rest) | rows_of(members)
        assert len(after.train) == len(before.train) - len(others)
        assert (after.validation, after.test) == (before.validation, before.test)
        labels = {
            row.numpy().tobytes(): label for row, label in zip(before.train.inputs, before.train.labels, strict=True)
        }
        for samples in (pool.samples, after.train):
            for row, label in zip(samples.inputs, samples.labels, strict=True):
                assert labels[row.numpy().tobytes()] == label


def test_planting_changes_nothing_that_it_was_given_and_follows_from_the_seed(federation):
    before = [client.train.inputs.clone() for client in federation.clients]
    first, again, other = (Membership().plant(federation, seed)[1] for seed in (5, 5, 6))
    assert all(torch.equal(one, client.train.inputs) for one, client in zip(before, federation.clients, strict=True))
    assert torch.equal(first.pools[0].samples.inputs, again.pools[0].samples.inputs)
    assert not torch.equal(first.pools[0].samples.inputs, other.pools[0].samples.inputs)


def test_only_so_many_clients_have_a_pool_and_who_has_too_few_samples_has_none(federation):
    assert [pool.client_id for pool in Membership(clients=2).plant(federation, 5)[1].pools] == [0, 1]
    one = replace(federation.clients[1], train=federation.clients[1].train.select(torch.tensor([0])))
    federation = replace(federation, clients=(federation.clients[0], one))
    assert [pool.client_id for pool in Membership(pool=1.0).plant(federation, 5)[1].pools] == [0]


def test_bytes_are_appended_as_numbers_and_stay_bytes_in_training(federation):
    def as_bytes(samples):
        return Samples((40 * (samples.inputs + 2)).clamp(0, 255).to(torch.uint8), samples.labels)

    clients = tuple(replace(one, train=as_bytes(one.train)) for one in federation.clients)
    planted_federation, planted = Membership().plant(replace(federation, clients=clients), 5)
    pool = planted.pools[0]
    assert planted_federation.clients[0].train.inputs.dtype == torch.uint8
    probes = planted_federation.shared.transfer.inputs[pool.rows]
    torch.testing.assert_close(probes, pool.samples.inputs.to(probes.dtype) / 255)


def test_canaries_stay_out_of_pools_and_probes_of_both_are_flagged(federation):
    audits = {"canary": Canary(canaries=20, counts=[4]), "membership": Membership(pool=1.0)}
    planted_federation, (canaries, pools) = plant(audits, federation, 5)
    owner = canaries.planted.owner
    inserted = {row.numpy().tobytes() for row in canaries.planted.patterns[:20]}
    pool = pools.planted.pools[owner]
    assert len(pool.samples) == 2 * (len(federation.clients[owner].train) // 2)
    assert not rows_of(pool.samples) & inserted
    assert rows_of(pool.rest) >= inserted
    flags = probe_flags([canaries, pools], len(planted_federation.shared.transfer))
    assert flags.sum() == 40 + 40 + 40 + 30


def test_each_sample_is_learnt_by_half_of_the_shadows_and_each_shadow_learns_half():
    drawn = halves(6, 10, np.random.default_rng(0))
    assert drawn.sum(0).tolist() == [3] * 10
    assert drawn.sum(1).tolist() == [5] * 6
    assert not torch.equal(drawn[0], drawn[1])


def findings_of(evidence, audit):
    return {(one.subject, one.measure): one for one in audit.measure(evidence)}


def test_clients_that_learn_by_heart_are_found_out(run):
    audit = Membership(pool=1.0, shadows=8, control_epochs=100)
    found = findings_of(run(audit), audit)
    assert set(found) == {(subject, name) for subject in (SENT, MODEL) for name in ("AUC", "TPR at 1 % FPR")}
    # The last thing that the models have learnt is uniform soft labels.
    for subject, least in ((SENT, 0.75), (MODEL, 0.6)):
        area, rate = found[subject, "AUC"], found[subject, "TPR at 1 % FPR"]
        assert least < area.low < area.value < area.high <= 1
        assert area.floor == 0.5 and area.control > 0.8 and area.verdict == "leaks"
        assert rate.floor == pytest.approx(1 / 56)
        assert rate.value > 0.05


def test_with_permuted_membership_nothing_is_found(run):
    audit = Membership(pool=1.0, shadows=8, control_epochs=1)
    evidence = run(audit)
    runs = {client: Lived(evidence.shared[client], evidence.states[client]) for client in range(3)}
    courses = {
        client: Course(tuple(rows for rows, _ in runs[client].shared), evidence.fused[client]) for client in runs
    }
    scores = audit._attack(evidence, evidence.planted.pools, runs, courses, evidence.settings)[SENT]
    of_members, of_others = (torch.cat(side) for side in zip(*scores, strict=True))
    assert area_under_curve(of_members, of_others) > 0.8
    drawn = np.random.default_rng(0)
    together = torch.cat([of_members, of_others])
    permuted = torch.stack([together[torch.from_numpy(drawn.permutation(len(together)))] for _ in range(1000)])
    members, others = permuted[:, : len(of_members)], permuted[:, len(of_members) :]
    assert area_under_curve(members, others).mean().item() == pytest.approx(0.5, abs=0.01)
    chance = chance_of_true_positive(len(of_others), 0.01)
    assert true_positive_rate(members, others, 0.01).mean().item() == pytest.approx(chance, abs=0.005)


def test_noise_hides_what_is_sent_but_not_the_model(run):
    audit = Membership(pool=1.0, shadows=8, control_epochs=100)
    found = findings_of(run(audit, protectors=(Noise(5.0),)), audit)
    assert found[SENT, "AUC"].low < 0.5 and found[SENT, "AUC"].verdict == "no leak found"
    assert found[MODEL, "AUC"].low > 0.6 and found[MODEL, "AUC"].verdict == "leaks"
    assert found[SENT, "AUC"].has_power and found[SENT, "AUC"].control > 0.8


def test_a_control_that_has_learnt_nothing_has_no_power(run):
    audit = Membership(pool=0.5, shadows=4, control_epochs=100)
    evidence = run(audit)
    still = replace(evidence.settings, learn=replace(LEARN, optimizer=OptimizerSettings("sgd", lr=1e-9)))
    found = findings_of(replace(evidence, settings=still), audit)
    assert found[SENT, "AUC"].verdict == "no power"


def test_who_sent_nothing_is_not_attacked(run):
    audit = Membership(shadows=4, control_epochs=1)
    evidence = run(audit)
    assert audit.measure(replace(evidence, shared=dict.fromkeys(range(3), ()))) == ()
    assert audit.measure(replace(evidence, planted=PlantedPools(()))) == ()
    assert audit.needs == {"soft_labels"}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"clients": 0}, "clients=0 must be at least 1"),
        ({"pool": 0.0}, "pool=0.0 must be above 0 and at most 1"),
        ({"pool": 1.1}, "pool=1.1 must be above 0 and at most 1"),
        ({"shadows": 2}, "shadows=2 must be even and at least 4"),
        ({"shadows": 5}, "shadows=5 must be even and at least 4"),
        ({"control_epochs": 0}, "control_epochs=0 must be at least 1"),
    ],
)
def test_numbers_out_of_range_are_refused(values, words):
    with pytest.raises(ValueError, match=words):
        Membership(**values)
