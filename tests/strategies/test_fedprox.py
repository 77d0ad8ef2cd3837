import pytest
import torch
from states import states_in

from fedfuse.checkpoint import CLIENTS, FOLDER
from fedfuse.composition import compose
from fedfuse.simulate import simulate
from strategies.fedprox import FedProx

WORDS = ["model=mlp_small", "num_clients=2", "num_rounds=2", "learn.epochs=2", "local_baseline=false"]


def weights_after(tmp_path, *words):
    """Run two rounds; return the clients' weights."""
    directory = simulate(compose([*WORDS, *words]), tmp_path / "-".join(words))
    return states_in(directory / FOLDER / CLIENTS, range(2))


def flat(states):
    """All tensors of a nested mapping, one after another."""
    if isinstance(states, torch.Tensor):
        return [states.double().flatten()]
    if isinstance(states, dict):
        return [tensor for key in sorted(states, key=str) for tensor in flat(states[key])]
    if isinstance(states, list | tuple):
        return [tensor for state in states for tensor in flat(state)]
    return flat(vars(states)) if hasattr(states, "__dict__") else []


def test_without_the_proximal_term_it_is_fedavg_bit_by_bit(tmp_path):
    prox = torch.cat(flat(weights_after(tmp_path, "strategy=fedprox", "strategy.proximal=0")))
    average = torch.cat(flat(weights_after(tmp_path, "strategy=fedavg")))
    other = torch.cat(flat(weights_after(tmp_path, "strategy=fedprox", "learn.proximal=1")))
    assert torch.equal(prox, average)
    assert not torch.equal(prox, other)


def test_the_strategy_brings_its_proximal_term_which_the_command_line_can_change():
    assert compose(["strategy=fedprox"]).learn.proximal == 0.01
    assert compose(["strategy=fedprox"]).absorb.proximal == 0
    assert compose(["strategy.proximal=0.3", "strategy=fedprox"]).learn.proximal == 0.3
    assert compose(["learn.proximal=0.5", "strategy=fedprox"]).learn.proximal == 0.5
    assert compose(["strategy=fedavg"]).learn.proximal == 0


def test_a_negative_pull_is_refused():
    with pytest.raises(ValueError, match=r"^proximal must be at least 0, not -0\.1$"):
        FedProx(proximal=-0.1)


@pytest.mark.parametrize("name", ["sends", "returns", "needs", "one_architecture"])
def test_what_travels_is_what_travels_with_fedavg(name):
    assert (
        getattr(FedProx, name)
        == {
            "sends": {"weights"},
            "returns": {"weights"},
            "needs": {"num_examples"},
            "one_architecture": True,
        }[name]
    )
