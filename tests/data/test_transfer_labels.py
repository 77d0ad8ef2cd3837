"""No client can see a label of the transfer set; the server sees those that the configuration gives it, and no others.

Every sample of the data has a class of its own, so that a single number anywhere would give its label away.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import FunctionType, MethodType

import numpy as np
import pytest
import torch

from fedfuse import assembly
from fedfuse.cli import main
from fedfuse.composition import compose
from fedfuse.data.samples import Groups, LabelledData, Samples

NUM_SAMPLES = 160
FIRST_LABEL, FIRST_OTHER_LABEL = 1000, 5000  # of the clients' data and of another source; no index is as large
LABELS = {first + number for first in (FIRST_LABEL, FIRST_OTHER_LABEL) for number in range(NUM_SAMPLES)}
BASE = ["num_clients=3", "partition=iid", "transfer.size=20", "engine.runner=sequential"]
MAKERS = {
    "held_out": [],
    "balanced": ["transfer.source.balanced=true"],
    "domain": ["transfer=domain", "transfer.source.domain=clinic"],
    "collage": ["transfer=collage"],
    "uniform_noise": ["transfer=uniform_noise"],
    "gaussian_noise": ["transfer=gaussian_noise"],
    "other_data": ["transfer=other_data", "transfer.data=wine"],
}
OF_ROWS = {"held_out", "balanced", "domain", "other_data"}  # which domains are known of


def marked_data(first_label):
    """Images from 0 to 1 in two domains; the label of every sample is a number of its own."""
    inputs = torch.rand(NUM_SAMPLES, 1, 8, 8, generator=torch.Generator().manual_seed(first_label))
    labels = first_label + torch.arange(NUM_SAMPLES)
    return LabelledData(
        samples=Samples(inputs, labels),
        class_names=tuple(f"class {number}" for number in range(first_label + NUM_SAMPLES)),
        domains=Groups(("clinic", "practice"), np.arange(NUM_SAMPLES) % 2),
    )


@pytest.fixture
def unmistakable(monkeypatch):
    """Put data in place whose labels are unmistakable: the clients' and, by another name, another source's."""
    sources = {"digits": marked_data(FIRST_LABEL), "wine": marked_data(FIRST_OTHER_LABEL)}
    monkeypatch.setattr(assembly, "load_data", lambda component: sources[component.name])
    return sources


def hidden_labels(sources, configuration):
    """List the labels that must not be seen: of the transfer samples, and of all that no client and no test set has."""
    split = assembly.deal_data(configuration).split
    held = np.concatenate([*split.clients, split.global_test])
    hidden = np.setdiff1d(np.arange(NUM_SAMPLES), held)
    assert split.transfer is None or np.isin(split.transfer, hidden).all()
    return set((FIRST_LABEL + hidden).tolist()) | set(sources["wine"].samples.labels.tolist())


def labels_in(root):
    """Collect every number that is a label in what can be reached from an object, whatever it is stored as."""
    found, waiting, seen = set(), [root], {}
    while waiting:
        item = waiting.pop()
        if id(item) in seen or isinstance(item, type):
            continue
        seen[id(item)] = item
        if isinstance(item, torch.Tensor):
            # The storage is all that a view could be widened to.
            found |= LABELS & set(torch.empty(0, dtype=item.dtype).set_(item.untyped_storage()).tolist())
            waiting.append(item.grad)
        elif isinstance(item, np.ndarray):
            found |= LABELS & set(item.reshape(-1).tolist())
            waiting.append(item.base)
        elif isinstance(item, Mapping):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple | set | frozenset):
            waiting += item
        elif isinstance(item, int | float):
            found |= LABELS & {item}
        elif isinstance(item, partial):
            waiting += [item.func, item.args, item.keywords]
        elif isinstance(item, MethodType):
            waiting += [item.__self__, item.__func__]
        elif isinstance(item, FunctionType):
            waiting += [cell.cell_contents for cell in item.__closure__ or ()]
            waiting += [item.__defaults__, item.__kwdefaults__]
        elif hasattr(item, "__dict__"):
            waiting.append(vars(item))
    return found


def assembled(configuration):
    """Assemble a run as a simulation does."""
    federation = assembly.load_federation(configuration)
    architectures = assembly.make_architectures(configuration, federation.shared)
    return (
        {
            "clients": assembly.make_clients(federation, architectures),
            "settings": assembly.make_client_settings(configuration, federation.shared),
            "shared": federation.shared,
        },
        assembly.make_server(configuration, federation.shared, architectures, federation.server_labels),
    )


@pytest.mark.parametrize("maker", MAKERS)
def test_no_label_of_the_transfer_set_can_be_reached(unmistakable, maker):
    configuration = compose([*BASE, *MAKERS[maker]])
    hidden = hidden_labels(unmistakable, configuration)
    held_by_clients, server = assembled(configuration)
    seen = labels_in(held_by_clients)
    assert len(seen) >= NUM_SAMPLES // 4  # the clients' own labels are seen, so others would be
    assert not seen & hidden
    assert not labels_in(server)


@pytest.mark.parametrize("maker", ["held_out", "balanced", "domain"])
def test_the_server_and_nobody_else_sees_the_labels_that_it_is_given(unmistakable, maker):
    configuration = compose([*BASE, *MAKERS[maker], "transfer.labelled=5"])
    given = FIRST_LABEL + assembly.deal_data(configuration).split.transfer[:5]
    held_by_clients, server = assembled(configuration)
    assert server.labels.tolist() == given.tolist()
    assert labels_in(server) == set(given.tolist())
    assert not labels_in(held_by_clients) & hidden_labels(unmistakable, configuration)


@pytest.mark.parametrize("maker", MAKERS)
def test_no_exported_file_holds_a_label_of_the_transfer_set(unmistakable, maker, tmp_path, capsys):
    overrides = [*BASE, *MAKERS[maker]]
    assert main(["export", str(tmp_path / "files"), *overrides]) == 0
    hidden = hidden_labels(unmistakable, compose(overrides))
    seen = set()
    for path in sorted((tmp_path / "files").iterdir()):
        with np.load(path) as archive:
            arrays = dict(archive.items())
        if path.name == "transfer.npz":
            domains = {"transfer_domains"} if maker in OF_ROWS else set()
            assert set(arrays) == {"transfer", "class_names", "test_inputs", "test_labels"} | domains
        seen |= labels_in(arrays)
    assert len(seen) >= NUM_SAMPLES // 4
    assert not seen & hidden


@dataclass
class Holder:
    held: object


SECRET = FIRST_LABEL + 7


def hiding_places():
    """Objects that hold a label, each in its own way."""
    label = torch.tensor([SECRET])
    module = torch.nn.Linear(2, 2)
    module.register_buffer("labels", label)

    def closure():
        return label

    def default(labels=label):
        return labels

    return {
        "a list of numbers": [1, SECRET],
        "a key": {SECRET: "x"},
        "a tensor": label,
        "floating point": label.float(),
        "the storage of a view": torch.tensor([0, SECRET])[:1],
        "the base of an array": np.array([0, SECRET])[:1],
        "a dataclass": Holder({"a": [Holder(label)]}),
        "a model": module,
        "a closure": closure,
        "a default": default,
        "a partial": partial(print, label),
        "a method": Holder(label).__repr__,
    }


def test_a_label_would_be_found_wherever_it_is(unmistakable):
    _, server = assembled(compose(BASE))
    for place, hidden in hiding_places().items():
        assert labels_in(replace(server, transfer_rows=hidden)) == {SECRET}, place
