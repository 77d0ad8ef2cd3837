"""The README's examples run as they stand there."""

import re
from pathlib import Path

import numpy as np
import pytest

from fedfuse.assembly import load_federation, make_strategy
from fedfuse.cli import main
from fedfuse.composition import compose, expand

README = (Path(__file__).resolve().parent.parent / "README.md").read_text()
BLOCKS = {
    match.group(1).splitlines()[0].removeprefix("# "): match.group(1)
    for match in re.finditer(r"```python\n(.*?)```", README, re.DOTALL)
}
COMMANDS = re.findall(r"^fedfuse run (.*?)(?:  +#.*)?$", README, re.MULTILINE)


@pytest.fixture
def beside_the_examples(tmp_path, monkeypatch):
    for name, text in BLOCKS.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def command(word):
    (found,) = [line for line in COMMANDS if word in line and "--config-dir" not in line]
    return found.split()


def test_the_readme_has_the_examples():
    assert set(BLOCKS) == {"my_data.py", "confident.py"}
    assert len(COMMANDS) >= 10


def test_every_command_composes(beside_the_examples):
    for line in COMMANDS:
        words = [word.strip("'") for word in re.findall(r"'[^']*'|\S+", line)]
        words = [word for word in words if word not in ("-m", "...")]
        if any(word.startswith(("resume=", "--config-dir")) for word in words):
            continue
        for combination in expand(words):
            compose(combination)


def test_a_strategy_of_ones_own_runs(beside_the_examples, capsys):
    overrides = [
        *command("confident.Confident"),
        "num_rounds=1",
        "learn.epochs=1",
        "local_baseline=false",
        "output=run",
    ]
    assert main(["run", *overrides]) == 0
    assert (beside_the_examples / "run" / "summary.json").exists()
    assert "custom on digits" in capsys.readouterr().out


def test_a_strategy_of_ones_own_can_be_named(beside_the_examples):
    folder = beside_the_examples / "my_configs" / "strategy"
    folder.mkdir(parents=True)
    (folder / "confident.yaml").write_text("_target_: confident.Confident\n")
    configuration = compose(["strategy=confident"], beside_the_examples / "my_configs")
    assert type(make_strategy(configuration.strategy)).__name__ == "Confident"


def test_data_of_ones_own_are_dealt_out(beside_the_examples):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(2000, 12))
    np.savez("my.npz", x=x, y=x[:, 0] > 0)
    federation = load_federation(compose(command("my_data.load_data")))
    assert federation.shared.class_names == ("no", "yes")
    assert len(federation.shared.transfer) == 200
    assert len(federation.clients) == 10
