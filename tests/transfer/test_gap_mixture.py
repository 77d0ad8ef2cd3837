import math
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from states import states_in

from fedfuse.assembly import deal_data
from fedfuse.checkpoint import CLIENTS, FOLDER
from fedfuse.cli import main
from fedfuse.client.absorb import absorb
from fedfuse.client.client import first_state
from fedfuse.composition import compose
from fedfuse.data.federation import TransferSet
from fedfuse.engine import sequential, stacked
from fedfuse.messages import Request
from fedfuse.simulate import resume, simulate
from fedfuse.transfer.gap_mixture import GapMixture
from fedfuse.transfer.lesson import Lesson
from fedfuse.transfer.partial_mixup import PartialMixup

# Four samples of class 0, two of class 1 and none of class 2.
FUSED = torch.tensor([[0.8, 0.1, 0.1]] * 4 + [[0.25, 0.5, 0.25]] * 2, dtype=torch.float64)
# The client is as sure as they of class 0 in the geometric mean, and half as sure of class 1.
OWN = torch.tensor(
    [[0.9, 0.05, 0.05], [0.64 / 0.9, 0.2, 0.8 - 0.64 / 0.9]] * 2 + [[0.5, 0.25, 0.25]] * 2, dtype=torch.float64
)
GAPS = (1.0, 2.0, 1.0)
# Domain 0 has two samples of each class, so its mean gap is the root of 2; domain 1 two of class 0. Domain 2 has none.
DOMAINS = torch.eye(3, dtype=torch.float64)[[1, 1, 0, 0, 0, 0]]
DOMAIN_GAPS = (math.sqrt(2), 1.0)


def taught(step, fused=FUSED, own=OWN, state=None, seed=0, rows=None, domains=None):
    rows = torch.arange(len(fused)) if rows is None else torch.tensor(rows)
    lesson = Lesson(torch.zeros(len(fused), 2), fused, rows, own, domains=domains)
    state = (
        step.initial_state(fused.shape[1]) if state is None else {"mixture": torch.tensor(state, dtype=torch.float64)}
    )
    lesson, state = step(lesson, state, 1, np.random.default_rng(seed))
    return lesson.rows, state["mixture"]


def test_the_first_mixture_is_the_softmax_of_the_ratios_of_perplexities():
    total = sum(math.exp(gap) for gap in GAPS)
    _, mixture = taught(GapMixture())
    assert mixture.tolist() == pytest.approx([math.exp(gap) / total for gap in GAPS], abs=1e-12)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.9])
def test_the_next_mixture_follows_the_gaps_from_the_one_before(alpha):
    before = [0.2, 0.3, 0.5]
    psi = [r * math.exp(gap) for r, gap in zip(before, GAPS, strict=True)]
    expected = [alpha * one / sum(psi) + (1 - alpha) / 3 for one in psi]
    _, mixture = taught(GapMixture(alpha), state=before)
    assert mixture.tolist() == pytest.approx(expected, abs=1e-12)


def test_a_mixture_is_never_below_its_floor_and_sums_to_one():
    step, mixture = GapMixture(0.7), None
    for round in range(30):
        generator = torch.Generator().manual_seed(round)
        fused, own = torch.softmax(5 * torch.randn(2, 20, 4, generator=generator, dtype=torch.float64), 2)
        _, mixture = taught(step, fused, own, mixture)
        mixture = mixture.tolist()
        assert sum(mixture) == pytest.approx(1, abs=1e-12)
        if round:
            assert min(mixture) >= 0.3 / 4


def test_a_ratio_is_cut_off_at_five():
    own = OWN.clone()
    own[4:] = torch.tensor([1.0, 0.0, 0.0])
    total = 2 * math.e + math.exp(5)
    _, mixture = taught(GapMixture(), own=own)
    assert mixture.tolist() == pytest.approx([math.e / total, math.exp(5) / total, math.e / total], abs=1e-12)


def test_only_rows_that_came_are_judged():
    _, mixture = taught(GapMixture(), rows=[0, 1])
    assert mixture.tolist() == pytest.approx([1 / 3] * 3, abs=1e-12)


def test_as_many_rows_as_came_are_drawn_by_class_and_alike_within_a_class():
    generator_rows = torch.cat([taught(GapMixture(0.0), state=[0.2, 0.3, 0.5], seed=seed)[0] for seed in range(1000)])
    assert len(generator_rows) == 6000
    # Half for each of the two classes that have samples, whatever the third would get.
    drawn = torch.bincount(generator_rows, minlength=6)
    # Means 750 and 1500, standard deviations 26 and 34.
    assert 640 < drawn[:4].min() <= drawn[:4].max() < 860
    assert 1360 < drawn[4:].min() <= drawn[4:].max() < 1640


def test_rows_are_drawn_by_the_new_mixture():
    # The first one: e to e squared for the classes that have samples.
    rows = torch.cat([taught(GapMixture(), seed=seed)[0] for seed in range(1000)])
    share = (rows >= 4).double().mean().item()
    # A standard deviation is 0.0057.
    assert share == pytest.approx(math.e / (1 + math.e), abs=0.025)


def test_without_rows_nothing_is_drawn_and_the_mixture_stays():
    rows, mixture = taught(GapMixture(), state=[0.2, 0.3, 0.5], rows=np.array([], dtype=np.int64))
    assert rows.tolist() == []
    assert mixture.tolist() == [0.2, 0.3, 0.5]


def test_probabilities_of_zero_are_finite():
    fused = torch.eye(3, dtype=torch.float64)
    _, mixture = taught(GapMixture(), fused, fused.flip(0))
    assert mixture.isfinite().all()


@pytest.mark.parametrize("alpha", [-0.1, 1, 1.5, math.nan])
def test_an_alpha_out_of_range_is_refused(alpha):
    with pytest.raises(ValueError, match=rf"alpha={alpha} must lie in \[0, 1\)"):
        GapMixture(alpha)


def test_what_is_mixed_is_classes_or_domains():
    with pytest.raises(ValueError, match="by=label must be class or domain"):
        GapMixture(by="label")
    assert GapMixture().needs_domains is GapMixture(by="class").needs_domains is False
    assert GapMixture(by="domain").needs_domains is True


# -- by domain ---------------------------------------------------------------------------------------------------------

BY_DOMAIN = GapMixture(by="domain")


def test_the_first_mixture_of_domains_is_the_softmax_of_their_ratios():
    _, mixture = taught(BY_DOMAIN, domains=DOMAINS[:, :2])
    total = sum(math.exp(gap) for gap in DOMAIN_GAPS)
    assert mixture.dtype == torch.float64
    assert mixture.tolist() == pytest.approx([math.exp(gap) / total for gap in DOMAIN_GAPS], abs=1e-12)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.9])
def test_the_next_mixture_of_domains_follows_the_gaps_from_the_one_before(alpha):
    before = [0.3, 0.7]
    psi = [r * math.exp(gap) for r, gap in zip(before, DOMAIN_GAPS, strict=True)]
    _, mixture = taught(GapMixture(alpha, "domain"), state=before, domains=DOMAINS[:, :2])
    assert mixture.tolist() == pytest.approx([alpha * one / sum(psi) + (1 - alpha) / 2 for one in psi], abs=1e-12)


def test_a_domain_without_samples_has_the_ratio_1():
    _, mixture = taught(BY_DOMAIN, domains=DOMAINS)
    total = math.e + math.exp(math.sqrt(2)) + math.e
    assert mixture.tolist() == pytest.approx(
        [math.exp(math.sqrt(2)) / total, math.e / total, math.e / total], abs=1e-12
    )


def test_rows_are_drawn_by_domain_and_alike_within_a_domain():
    rows = torch.cat(
        [
            taught(GapMixture(0.0, "domain"), state=[0.5, 0.5], seed=seed, domains=DOMAINS[:, :2])[0]
            for seed in range(1000)
        ]
    )
    drawn = torch.bincount(rows, minlength=6)
    # Means 1500 and 750, standard deviations 34 and 26.
    assert 1360 < drawn[:2].min() <= drawn[:2].max() < 1640
    assert 640 < drawn[2:].min() <= drawn[2:].max() < 860


def test_domains_do_not_matter_to_a_mixture_of_classes():
    rows, mixture = taught(GapMixture(), domains=DOMAINS)
    others, expected = taught(GapMixture())
    assert rows.tolist() == others.tolist()
    assert mixture.tolist() == expected.tolist()


def test_there_are_as_many_domains_as_the_transfer_set_has_and_none_before_the_first_lesson():
    state = BY_DOMAIN.initial_state(3)
    assert {name: value.tolist() for name, value in state.items()} == {"mixture": []}
    _, empty = taught(BY_DOMAIN, domains=DOMAINS, rows=np.array([], dtype=np.int64))
    assert empty.tolist() == []
    # Of two rows, both of domain 1, it still knows of three domains.
    _, first = taught(BY_DOMAIN, domains=DOMAINS, rows=[0, 1])
    assert first.tolist() == pytest.approx([1 / 3] * 3, abs=1e-12)
    _, second = taught(BY_DOMAIN, domains=DOMAINS, state=first.tolist())
    assert second.shape == (3,)


def test_a_mixed_sample_is_of_the_domain_that_it_has_most_of():
    lesson = Lesson(torch.zeros(6, 2), FUSED, torch.arange(6), OWN, domains=DOMAINS[:, :2])
    lesson, _ = PartialMixup(1.0)(lesson, {}, 1, np.random.default_rng(3))
    nearest = (lesson.domains[:, 1] > 0.5).long()
    assert nearest.tolist() != [1, 1, 0, 0, 0, 0]
    assert ((lesson.domains > 0) & (lesson.domains < 1)).any()
    _, mixed = BY_DOMAIN(lesson, BY_DOMAIN.initial_state(3), 1, np.random.default_rng(0))
    plain = replace(lesson, domains=torch.eye(2, dtype=torch.float64)[nearest])
    _, expected = BY_DOMAIN(plain, BY_DOMAIN.initial_state(3), 1, np.random.default_rng(0))
    assert torch.equal(mixed["mixture"], expected["mixture"])


def test_both_runners_teach_a_cohort_by_domain(make_clients, make_settings, fused_soft_labels):
    plain = make_settings(lesson=(BY_DOMAIN,))
    transfer = TransferSet(plain.transfer.inputs, torch.arange(len(plain.transfer)) % 2)
    clients, settings = make_clients(("small",)), replace(plain, transfer=transfer)
    states = [first_state(client, settings) for client in clients]
    fused = [fused_soft_labels(rows, seed) for seed, rows in enumerate([[], [4], [0, 9], [1, 2, 3, 5, 8], None])]
    requests = [Request(round=1, fused={"soft_labels": own}, fused_round=1) for own in fused]
    one_by_one, together = (absorb(clients, states, requests, settings, fit) for fit in (sequential.fit, stacked.fit))
    assert len(one_by_one) == len(together) == 5
    for first, second in zip(one_by_one, together, strict=True):
        for name, tensor in first.parameters.items():
            torch.testing.assert_close(second.parameters[name], tensor, rtol=0, atol=1e-12)
        for name, tensor in first.objective_state.items():
            assert torch.equal(second.objective_state[name], tensor)
    assert [len(state.objective_state.get("lesson.0.mixture", [])) for state in one_by_one] == [0, 2, 2, 2, 2]


# -- with a user's own file --------------------------------------------------------------------------------------------

BASE = ["data=local", "data.path=hospitals.csv", "partition=iid", "num_clients=3", "transfer.size=50"]
LESSON = ["transfer.lesson=[{name: gap_mixture, by: domain},{name: partial_mixup, fraction: 0.3}]"]
RUN = [*BASE, *LESSON, "strategy=fedmd", "model=[mlp_small]", "learn.epochs=1", "absorb.epochs=1"]
RUN += ["engine.precision=float64", "local_baseline=false"]


@pytest.fixture
def hospitals(tmp_path, monkeypatch):
    """A table with a column of the domain, in the working directory of a run that waits for no disk."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDFUSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "fsync", lambda file: None)
    monkeypatch.setattr("fedfuse.conclusion.draw_figures", lambda directory, summary: [])
    monkeypatch.setattr("fedfuse.conclusion.write_report", lambda directory: directory)
    generator = np.random.default_rng(0)
    lines = ["age,weight,label,domain"]
    for row in range(240):
        label, domain = ("ill", "well")[row % 2], ("north", "south", "south")[row % 3]
        age, weight = generator.standard_normal(2) + np.array([row % 2, row % 3])
        lines.append(f"{age:.4f},{weight:.4f},{label},{domain}")
    (tmp_path / "hospitals.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def states_of(directory):
    """The newest state of each client that a run leaves behind."""
    clients = states_in(directory / FOLDER / CLIENTS, range(3))
    return {client: generations[-1][2] for client, generations in clients.items()}


def test_a_run_mixes_by_the_column_of_the_domain_with_either_runner_and_after_a_resume(hospitals):
    whole, together = (
        simulate(compose([*RUN, "num_rounds=2", f"engine.runner={runner}"]), hospitals / runner)
        for runner in ("sequential", "stacked")
    )
    parts = simulate(compose([*RUN, "num_rounds=1", "engine.runner=sequential"]), hospitals / "parts")
    first = {client: state["objective_state"]["lesson.0.mixture"] for client, state in states_of(parts).items()}
    resume(parts, num_rounds=2)
    assert len(first) == 3
    for client, state in states_of(whole).items():
        mixture = state["objective_state"]["lesson.0.mixture"]
        assert mixture.shape == first[client].shape == (2,)
        assert mixture.sum().item() == pytest.approx(1)
        assert not torch.equal(mixture, first[client])
        for kind in ("parameters", "objective_state"):
            for name, tensor in state[kind].items():
                assert torch.equal(states_of(parts)[client][kind][name], tensor)
                torch.testing.assert_close(states_of(together)[client][kind][name], tensor, rtol=0, atol=1e-9)


def test_the_domains_of_a_file_are_exported_and_come_back_with_transfer_path(hospitals, capsys):
    assert main(["export", "parts", *BASE]) == 0
    transfer = deal_data(compose(BASE)).shared.transfer
    again = deal_data(compose([*BASE, "transfer.path=parts/transfer.npz"])).shared.transfer
    assert again.digest == transfer.digest
    assert again.domains.tolist() == transfer.domains.tolist()
    assert set(transfer.domains.tolist()) == {0, 1}
    other = [*BASE, "transfer=other_data", "transfer.data={name: local, path: hospitals.csv}"]
    assert set(deal_data(compose(other)).shared.transfer.domains.tolist()) == {0, 1}


def test_a_run_by_domain_is_refused_in_one_line_where_the_transfer_set_has_none(hospitals, capsys):
    assert main(["run", *RUN, "transfer=gaussian_noise", "num_rounds=1", "output=nowhere"]) == 2
    *notes, error = capsys.readouterr().err.splitlines()
    assert error == "fedfuse: error: Lesson gap_mixture mixes by domain; the transfer set has none."
    assert all(note.startswith("fedfuse: note: ") for note in notes)
    assert not (hospitals / "nowhere").exists()
