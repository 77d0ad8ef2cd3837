from dataclasses import replace

import pytest
import torch

from fedfuse.client.client import first_state
from fedfuse.client.protect import protect
from fedfuse.encoding.uint8 import uint8
from fedfuse.privacy.swing import Swing


class Spy:
    """A protector that keeps what it was given and what it drew, and changes soft labels by a function."""

    carrier = "soft_labels"
    needs_reference = True

    def __init__(self, change=lambda soft_labels: soft_labels):
        self.change = change
        self.seen, self.references, self.draws = [], [], []

    def __call__(self, soft_labels, reference, generator):
        self.seen.append(soft_labels)
        self.references.append(reference)
        self.draws.append(tuple(generator.standard_normal(4)))
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
