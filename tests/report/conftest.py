"""Directories of runs as a run leaves them, and a pointer to read their reports with."""

import numpy as np
import pytest
from records import client, record

from fedfuse.composition import compose
from fedfuse.configuration import to_yaml
from fedfuse.results import LOCAL_ONLY, append_round, write_text
from fedfuse.summary import ClientFacts, write_summary

NO_GUARANTEE = '{"protectors": [], "differential_privacy": false, "summary": "No differential privacy is guaranteed."}'


@pytest.fixture
def make_run(tmp_path):
    """Return a function that writes the directory of a run in which client i is right with i tenths, and r rounds."""

    def make(
        num_clients=3,
        num_rounds=2,
        overrides=(),
        baseline_rounds=None,
        finished=True,
        relevance=True,
        left_out=(),
        model="mlp",
        class_names=("cat", "dog"),
        guarantees=NO_GUARANTEE,
        known=True,
        only_means=False,
    ):
        directory = tmp_path / "run"
        configuration = compose([f"num_clients={num_clients}", f"num_rounds={num_rounds}", *overrides])
        write_text(directory, "config.yaml", to_yaml(configuration))
        if guarantees is not None:
            write_text(directory, "guarantees.json", guarantees)
        weights = np.arange(1, num_clients**2 + 1, dtype=np.float32).reshape(num_clients, num_clients)
        weights /= weights.sum(axis=1, keepdims=True)
        for number in range(1, num_rounds + 1):
            clients = [client(i, _accuracy(i + number, known), _accuracy(i, known)) for i in range(num_clients)]
            append_round(
                directory, record(number, clients, weights if relevance else None, left_out), only_means=only_means
            )
        for number in range(1, (num_rounds if baseline_rounds is None else baseline_rounds) + 1):
            clients = [client(i, _accuracy(i, known), 0.25) for i in range(num_clients)]
            append_round(directory / LOCAL_ONLY, record(number, clients))
        if finished:
            facts = [ClientFacts(i, model, 10 * (i + 1), (i, 10 * (i + 1) - i)) for i in range(num_clients)]
            write_summary(directory, {}, facts, class_names)
        return directory

    return make


def _accuracy(tenths, known):
    return (tenths % 10) / 10 if known else None


@pytest.fixture
def point_at(browser):
    """Return a function that moves the pointer onto an element, once the page has stopped to scroll."""
    from selenium.webdriver import ActionChains

    def point(element):
        browser.execute_async_script(
            "arguments[0].scrollIntoView({ block: 'center', behavior: 'instant' });"
            "requestAnimationFrame(() => requestAnimationFrame(arguments[1]))",
            element,
        )
        ActionChains(browser, duration=0).move_to_element(element).perform()

    return point
