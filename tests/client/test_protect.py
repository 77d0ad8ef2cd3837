from dataclasses import replace

import pytest
import torch
from protection import EXPOSURE

from fedfuse.client.client import first_state
from fedfuse.client.density import densities_of
from fedfuse.client.protect import UnprotectedError, begin_answer, check_request, covered, protect
from fedfuse.encoding.uint8 import uint8
from fedfuse.privacy.swing import Swing


class Spy:
    """A protector that keeps what it was given and what it drew, and changes soft labels by a function."""

    carrier = "soft_labels"
    role = "heuristic"
    needs_reference = True
    uses_private_data = False

    def __init__(self, change=lambda soft_labels: soft_labels):
        self.change = change
        self.seen, self.contexts, self.references, self.draws = [], [], [], []

    def __call__(self, soft_labels, context):
        self.seen.append(soft_labels)
        self.contexts.append(context)
        self.references.append(context.reference)
        self.draws.append(tuple(context.generator.standard_normal(4)))
        return self.change(soft_labels)


@pytest.fixture
def client(make_clients):
    return make_clients()[3]


def expressed_of(rows=10):
    soft_labels = torch.softmax(torch.randn(rows, 3, dtype=torch.float64), 1)
    return {"soft_labels": {"soft_labels": soft_labels}, "weights": {"head.bias": torch.zeros(3)}}


def test_without_protectors_knowledge_leaves_as_it_is(client, make_settings, share_request):
    settings, expressed = make_settings(), expressed_of()
    assert protect(client, first_state(client, settings), expressed, share_request(), settings) == expressed


def test_protectors_are_applied_in_their_order(client, make_settings, share_request):
    double, add = Spy(lambda soft_labels: 2 * soft_labels), Spy(lambda soft_labels: soft_labels + 1)
    expressed = expressed_of()
    own = expressed["soft_labels"]["soft_labels"].clone()
    for protectors, expected in (((double, add), 2 * own + 1), ((add, double), 2 * (own + 1))):
        settings = make_settings(protectors=protectors)
        protected = protect(client, first_state(client, settings), expressed, share_request(), settings)
        assert torch.equal(protected["soft_labels"]["soft_labels"], expected)
    assert torch.equal(expressed["soft_labels"]["soft_labels"], own)
    assert torch.equal(add.seen[0], 2 * own)


def test_rows_and_other_carriers_are_left_alone(client, make_settings, share_request):
    settings, expressed = make_settings(protectors=(Spy(torch.zeros_like),)), expressed_of(rows=2)
    expressed["soft_labels"]["rows"] = torch.tensor([3, 8], dtype=torch.int32)
    request = share_request(rows=torch.tensor([3, 8]))
    protected = protect(client, first_state(client, settings), expressed, request, settings)
    assert protected["weights"] is expressed["weights"]
    assert set(protected["soft_labels"]) == {"soft_labels", "rows"}
    assert protected["soft_labels"]["rows"].tolist() == [3, 8]
    assert not protected["soft_labels"]["soft_labels"].any()


@pytest.mark.parametrize("carriers", [(), ("weights",)])
def test_a_protector_of_what_is_not_expressed_has_nothing_to_do(client, make_settings, share_request, carriers):
    spy = Spy(torch.zeros_like)
    settings = make_settings(protectors=(spy, Swing()))
    expressed = {carrier: expressed_of()[carrier] for carrier in carriers}
    assert protect(client, first_state(client, settings), expressed, share_request(), settings) == expressed
    assert spy.seen == []


def test_a_protector_that_has_nothing_to_do_changes_no_other_ones_noise(client, make_settings, share_request):
    idle, busy, alone = Spy(), Spy(), Spy()
    idle.carrier = "prototypes"
    for protectors in ((idle, busy), (Spy(), alone)):
        settings = make_settings(protectors=protectors)
        protect(client, first_state(client, settings), expressed_of(), share_request(), settings)
    assert idle.draws == []
    assert busy.draws == alone.draws


def test_noise_is_a_stream_of_its_own_for_each_position_client_round_and_seed(
    make_clients, make_settings, share_request
):
    def draws(client=0, round=1, seed=7, number=2):
        spies = tuple(Spy() for _ in range(number))
        settings = make_settings(protectors=spies, seed=seed)
        client = make_clients()[client]
        protect(client, first_state(client, settings), expressed_of(), share_request(round), settings)
        return [spy.draws[0] for spy in spies]

    usual = draws()
    assert draws() == usual
    assert draws(number=1) == usual[:1]
    everything = usual + draws(client=1) + draws(round=2) + draws(seed=8)
    assert len(set(everything)) == 8


def test_the_reference_is_the_fused_soft_label_of_each_row_that_was_asked_for(client, make_settings, share_request):
    spy = Spy()
    settings = make_settings(protectors=(spy,))
    fused = torch.arange(30, dtype=torch.float64).reshape(10, 3)
    received = {"soft_labels": {"soft_labels": fused}, "prototypes": {"prototypes": torch.zeros(3, 5)}}
    state = replace(first_state(client, settings), received=received)
    protect(client, state, expressed_of(), share_request(), settings)
    protect(client, state, expressed_of(3), share_request(rows=torch.tensor([1, 4, 9])), settings)
    assert torch.equal(spy.references[0], fused)
    assert spy.references[1].tolist() == [[3, 4, 5], [12, 13, 14], [27, 28, 29]]


def test_before_anything_was_fused_there_is_no_reference(client, make_settings, share_request):
    spy = Spy()
    settings = make_settings(protectors=(spy,))
    protect(client, first_state(client, settings), expressed_of(), share_request(), settings)
    assert spy.references == [None]


def test_a_shipped_protector_gives_probabilities_that_differ_from_what_was_expressed(
    client, make_settings, share_request, fused_soft_labels
):
    settings, expressed = make_settings(protectors=(Swing(),)), expressed_of()
    state = replace(first_state(client, settings), received={"soft_labels": fused_soft_labels()})
    protected = protect(client, state, expressed, share_request(), settings)["soft_labels"]["soft_labels"]
    torch.testing.assert_close(protected.sum(1), torch.ones(10, dtype=torch.float64))
    assert (protected - expressed["soft_labels"]["soft_labels"]).abs().max() > 0.01


def test_soft_labels_are_encoded_after_the_last_protector(client, make_settings, share_request):
    blur = Spy(lambda soft_labels: (soft_labels + 1) / 4)
    encoding, expressed = uint8(510, compressed=True), expressed_of()
    settings = make_settings(protectors=(blur,), encoding=encoding)
    protected = protect(client, first_state(client, settings), expressed, share_request(), settings)
    assert blur.seen == [expressed["soft_labels"]["soft_labels"]]
    assert set(protected["soft_labels"]) == {"code"}
    assert protected["weights"] is expressed["weights"]
    read = encoding.decode(protected["soft_labels"], 10, 3, torch.float64)["soft_labels"]
    blurred = (expressed["soft_labels"]["soft_labels"] + 1) / 4
    torch.testing.assert_close(read, blurred, rtol=0, atol=1 / 510)


def test_the_step_after_a_bound_is_told_its_radius(client, make_settings, share_request):
    bound, noise, last = Spy(), Spy(), Spy()
    bound.role, bound.radius, noise.role = "bound", 0.25, "mechanism"
    settings = make_settings(protectors=(bound, noise, last), exposure=EXPOSURE)
    protect(client, first_state(client, settings), expressed_of(), share_request(), settings)
    assert [spy.contexts[0].radius for spy in (bound, noise, last)] == [None, 0.25, None]


def test_one_that_works_while_the_client_learns_does_nothing_to_what_is_sent(client, make_settings, share_request):
    training = Spy(torch.zeros_like)
    training.role = "training"
    settings, expressed = make_settings(protectors=(training,), exposure=EXPOSURE), expressed_of()
    assert protect(client, first_state(client, settings), expressed, share_request(), settings) == expressed


def test_likeness_is_the_share_of_own_samples_that_are_less_likely(client, make_settings, share_request):
    spy, settings = Spy(), make_settings()
    state = first_state(client, settings)
    protect(client, state, expressed_of(), share_request(), replace(settings, protectors=(spy,)))
    found = spy.contexts[0].likeness()
    (density,) = densities_of([client], settings)
    on_transfer = density(settings.transfer.inputs)
    assert found.tolist() == [(density.own < value).double().mean().item() for value in on_transfer]
    assert ((found >= 0) & (found <= 1)).all()


# -- what a guarantee covers -------------------------------------------------------------------------------------------


def mechanism():
    spy = Spy()
    spy.role = "mechanism"
    return spy


def training():
    spy = Spy()
    spy.role = "training"
    return spy


@pytest.mark.parametrize(
    ("protectors", "carriers"),
    [
        ((), None),
        ((Spy(),), None),
        ((mechanism(),), {"soft_labels"}),
        ((training(),), {"soft_labels", "weights", "head", "relations"}),
        ((training(), mechanism()), {"soft_labels"}),
    ],
)
def test_what_a_guarantee_covers(protectors, carriers):
    assert covered(protectors) == carriers


def refused(request, settings):
    with pytest.raises(UnprotectedError) as error:
        check_request(request, settings)
    return str(error.value)


def test_a_client_releases_no_more_than_its_guarantee_was_computed_for(make_settings, share_request):
    exposure = replace(EXPOSURE, num_rounds=3, num_rows=4)
    settings = make_settings(protectors=(mechanism(),), exposure=exposure, share_facts=frozenset({"num_examples"}))
    rows = torch.arange(4)
    check_request(share_request(3, rows=rows), settings)
    assert "round 4 of 3" in refused(share_request(4, rows=rows), settings)
    assert "5 transfer samples, not 4 at most" in refused(share_request(rows=torch.arange(5)), settings)
    assert "asked for weights" in refused(share_request(rows=rows, sends=("soft_labels", "weights")), settings)
    assert "num_examples" in refused(share_request(rows=rows, facts=("num_examples",)), settings)
    check_request(share_request(9, sends=("weights",)), make_settings(protectors=(Spy(),)))


def test_an_answer_is_noted_with_the_request_that_it_is_for(client, make_settings, share_request):
    settings = make_settings(protectors=(mechanism(),), exposure=replace(EXPOSURE, num_rows=10))
    state = first_state(client, settings)
    assert begin_answer(state, share_request(), settings).privacy.answered == share_request().digest
    assert begin_answer(state, share_request(), make_settings()) is state
    with pytest.raises(UnprotectedError):
        begin_answer(state, share_request(99), settings)


def test_draws_that_back_a_guarantee_belong_to_one_request_one_position_and_one_client(
    make_clients, make_settings, share_request
):
    def draws(client=0, request=None, number=1):
        spies = tuple(Spy() for _ in range(number))
        settings = make_settings(protectors=spies)
        client, request = make_clients()[client], request or share_request()
        state = begin_answer(first_state(client, settings), request, settings)
        protect(client, state, expressed_of(), request, settings)
        return [spy.contexts[0].keystream.bytes(8) for spy in spies]

    usual = draws(number=2)
    assert draws(number=2) == usual
    others = draws(client=1) + draws(request=share_request(2)) + draws(request=share_request(rows=torch.arange(3)))
    assert len({*usual, *others}) == 5


def test_keys_that_back_a_guarantee_come_from_the_operating_system(client, make_settings):
    def key(**changes):
        return first_state(client, make_settings(**changes)).privacy.key

    assert key(protectors=(mechanism(),)) != key(protectors=(mechanism(),))
    assert key(protectors=(mechanism(),), secure_rng=False) == key(protectors=(mechanism(),), secure_rng=False)
    assert key(protectors=(Spy(),)) == key(protectors=(Spy(),))
    assert len(key(protectors=(mechanism(),))) == 32
