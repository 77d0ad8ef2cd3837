"""A small federation for tests, of ragged clients with three models and three classes; a browser for reports."""

import shutil
import sys
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from fedfuse.carriers.expectation import Expectation
from fedfuse.client.client import Client, ClientSettings, Predictors
from fedfuse.configuration import OptimizerSettings, TrainingSettings
from fedfuse.data.federation import ClientData, TransferSet
from fedfuse.data.samples import Samples
from fedfuse.messages import Request
from fedfuse.models.architecture import describe
from fedfuse.models.cnn import CNN
from fedfuse.models.mlp import MLP
from fedfuse.objectives.kd import KD
from fedfuse.predictors.plain_head import PlainHead

# The models of the tests are so small that threads only get into each other's way.
torch.set_num_threads(1)

INPUT_SHAPE = (1, 4, 4)
CLASS_NAMES = ("circle", "square", "star")
NUM_TRANSFER = 10

CHROMIUM, CHROMEDRIVER = shutil.which("chromium"), shutil.which("chromedriver")


@pytest.fixture(scope="session")
def architectures():
    """Architectures by name; the perceptrons differ in their embedding size, the first has that of the network."""
    models = {
        "small": partial(MLP, INPUT_SHAPE, 3, hidden=(6,), embedding_size=5),
        "wide": partial(MLP, INPUT_SHAPE, 3, hidden=(7, 6), embedding_size=4),
        "cnn": partial(CNN, INPUT_SHAPE, 3, channels=(3,), embedding_size=5),
    }
    return {name: describe(name, build, INPUT_SHAPE) for name, build in models.items()}


@pytest.fixture(scope="session")
def make_samples():
    """Return a function that draws samples: a bright column for each class, and noise."""

    def make(number, seed=0, dtype=torch.float64):
        generator = torch.Generator().manual_seed(seed)
        labels = torch.randint(3, (number,), generator=generator)
        inputs = 0.3 * torch.randn(number, *INPUT_SHAPE, generator=generator, dtype=torch.float64)
        inputs[torch.arange(number), :, :, labels] += 1
        return Samples(inputs.to(dtype), labels)

    return make


@pytest.fixture(scope="session")
def make_clients(architectures, make_samples):
    """Return a function that makes clients with so many training samples, with the named architectures in turn."""

    def make(names=("small", "wide", "cnn"), sizes=(1, 5, 16, 17, 40), dtype=torch.float64):
        return tuple(
            Client(
                client_id,
                architectures[names[client_id % len(names)]],
                ClientData(
                    train=make_samples(size, 10 * client_id + 1, dtype),
                    validation=make_samples(4, 10 * client_id + 2, dtype),
                    test=make_samples(6, 10 * client_id + 3, dtype),
                ),
            )
            for client_id, size in enumerate(sizes)
        )

    return make


@pytest.fixture(scope="session")
def make_settings(make_samples):
    """Return a function that makes the settings of clients; keywords replace single ones."""

    def make(dtype=torch.float64, **changes):
        optimizer = OptimizerSettings("sgd", lr=0.1, momentum=0.5)
        plain = PlainHead()
        return ClientSettings(
            **{
                "seed": 7,
                "dtype": dtype,
                "class_names": CLASS_NAMES,
                "transfer": TransferSet(make_samples(NUM_TRANSFER, 1001, dtype).inputs),
                "global_test": make_samples(9, 1002, dtype),
                "learn": TrainingSettings(epochs=2, batch_size=4, optimizer=optimizer),
                "absorb": TrainingSettings(epochs=2, batch_size=4, optimizer=optimizer),
                "objective": KD(),
                "predictors": Predictors(plain, plain, plain),
                "protectors": (),
                "share_facts": frozenset({"num_examples", "test_metrics"}),
            }
            | changes
        )

    return make


@pytest.fixture(scope="session")
def share_request():
    """Return a function that makes a request for soft labels on all rows, or on those given."""

    def make(round=1, sends=("soft_labels",), rows=None, **others):
        return Request(round=round, sends=sends, rows=torch.arange(NUM_TRANSFER) if rows is None else rows, **others)

    return make


@pytest.fixture(scope="session")
def fused_soft_labels():
    """Return a function that draws fused soft labels in the form that travels: on all rows, or on those given."""

    def make(rows=None, seed=0, dtype=torch.float64):
        generator = torch.Generator().manual_seed(seed)
        number = NUM_TRANSFER if rows is None else len(rows)
        soft_labels = torch.softmax(2 * torch.randn(number, 3, generator=generator, dtype=dtype), 1)
        return {"soft_labels": soft_labels} | ({} if rows is None else {"rows": torch.tensor(rows, dtype=torch.int32)})

    return make


@pytest.fixture(scope="session")
def make_expectation():
    """Return a function that says what a server expects of a client."""

    def make(client, round=1, rows=None):
        return Expectation(
            client_id=client.client_id,
            round=round,
            num_classes=len(CLASS_NAMES),
            num_transfer=NUM_TRANSFER,
            rows=torch.arange(NUM_TRANSFER) if rows is None else rows,
            architecture=client.architecture.signature,
            shapes=client.architecture.shapes,
            embedding_size=client.architecture.embedding_size,
        )

    return make


@pytest.fixture
def own_search_path(monkeypatch, tmp_path):
    """Run in a directory of its own, and forget what the command adds to the search path for modules."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def simulation(monkeypatch):
    """Put a simulation in place that only notes how it was called."""
    calls = []
    module = SimpleNamespace(
        simulate=lambda configuration: calls.append(("simulate", configuration)),
        resume=lambda directory, *numbers: calls.append(("resume", directory, *numbers)),
    )
    monkeypatch.setitem(sys.modules, "fedfuse.simulate", module)
    return calls


@pytest.fixture(scope="session")
def browser():
    """Open a headless Chromium without a network; it is gone at the end, and all that it started."""
    if CHROMIUM is None or CHROMEDRIVER is None:
        pytest.skip("chromium or chromedriver is not installed")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1200,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(executable_path=CHROMEDRIVER))
    driver.execute_cdp_cmd("Network.enable", {})
    driver.execute_cdp_cmd(
        "Network.emulateNetworkConditions",
        {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0},
    )
    yield driver
    driver.quit()
