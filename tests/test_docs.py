"""The commands, files and parts that the documents name are there, and are what the documents say."""

import re
import shlex
import tomllib
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml

from fedfuse.assembly import (
    load_shared,
    make_architectures,
    make_client_settings,
    make_predictors,
    make_strategy,
)
from fedfuse.cli import COMMANDS, _parser, main
from fedfuse.compare.plan import make_plan
from fedfuse.compatibility import check_compatible
from fedfuse.components import build
from fedfuse.composition import compose, expand
from fedfuse.errors import ConfigurationError
from fedfuse.models.outputs import Outputs

ROOT = Path(__file__).resolve().parent.parent
OBJECTIVES = ROOT / "docs" / "objectives.md"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("simulations/*/README.md")])


def commands_in(document):
    """Find what is typed in blocks of shell commands, without comments."""
    for block in re.findall(r"```bash\n(.*?)```", document.read_text(), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words and words[0] == "fedfuse":
                yield words[1 : words.index(">")] if ">" in words else words[1:]


def test_the_walk_finds_the_commands():
    deploy = list(commands_in(ROOT / "docs" / "deploy.md"))
    assert {words[0] for words in deploy} >= {"export", "client", "server", "certs"}
    assert sum(len(list(commands_in(document))) for document in DOCUMENTS) > 25


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_in_a_document_is_one(document):
    for words in commands_in(document):
        assert words[0] in COMMANDS, words
        arguments, rest = _parser().parse_known_args([word for word in words if word != "&"])
        assert arguments.command == words[0]
        assert [word for word in rest if word.startswith("-")] == [], words


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_in_a_document_leads_somewhere(document):
    for target in re.findall(r"\]\(([^)#:\s]+)\)", document.read_text()):
        assert (document.parent / target).exists(), target


def test_blocks_of_toml_are_toml():
    for document in DOCUMENTS:
        for block in re.findall(r"```toml\n(.*?)```", document.read_text(), re.DOTALL):
            tomllib.loads(block)


def test_every_strategy_is_in_the_table_of_methods():
    text = (ROOT / "docs" / "methods.md").read_text()
    named = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    shipped = {path.stem for path in (ROOT / "configs" / "strategy").glob("*.yaml")} - {"custom"}
    assert named == shipped


def rows_in(heading, group):
    """Read the tables under a heading that have a row a part: for each name, its cells by column."""
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", OBJECTIVES.read_text(), re.DOTALL | re.MULTILINE)
    rows, columns = {}, None
    for line in section.group(1).splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")] if line.startswith("|") else None
        if cells is None:
            columns = None
        elif columns is None:
            columns = cells
        elif columns[0].startswith(f"`{group}=") and not cells[0].startswith("---"):
            name = cells[0].strip("`")
            assert name not in rows, name
            rows[name] = dict(zip(columns, cells, strict=True))
    return rows


def shipped(folder):
    return {path.stem for path in (ROOT / "configs" / folder).glob("*.yaml")}


def words_of(cell):
    """Read ``own soft labels, labels`` as the names of what they are."""
    return set() if cell == "-" else {word.replace(" ", "_") for word in cell.split(", ")}


TABLES = [
    ("Objectives", "objective", "objective"),
    ("Lessons", "transfer.lesson", "transfer/lesson"),
    ("Policies", "transfer/policy", "transfer/policy"),
    ("Predictors", "predictor.share", "predictor/answer"),
    ("Predictors", "predictor", "predictor"),
]


@pytest.mark.parametrize(("heading", "group", "folder"), TABLES)
def test_every_part_that_clients_learn_with_has_its_row(heading, group, folder):
    assert set(rows_in(heading, group)) == shipped(folder)


@pytest.mark.parametrize(("heading", "group", "folder"), TABLES[:-1])
def test_the_defaults_in_a_row_are_those_of_its_file(heading, group, folder):
    for name, row in rows_in(heading, group).items():
        values = yaml.safe_load((ROOT / "configs" / folder / f"{name}.yaml").read_text())
        told = [word.split("=") for word in re.findall(r"`([^`]+)`", row["defaults"])]
        assert {key: yaml.safe_load(value) for key, value in told} | {"_target_": values["_target_"]} == values, name


def test_the_rows_of_objectives_say_what_they_need_and_judge():
    for name, row in rows_in("Objectives", "objective").items():
        if "needs" in row:
            objective = build(compose([f"objective={name}"]).objective, "objective")
            assert words_of(row["needs"]) == objective.needs, name
            assert row["judges"] == ("sample" if objective.per_sample else "batch"), name


def test_the_rows_of_lessons_say_what_they_do():
    for name, row in rows_in("Lessons", "transfer.lesson").items():
        (component,) = compose([f"transfer.lesson=[{name}]"]).transfer.lesson
        step = build(component, "transfer lesson")
        assert row["own answers"] == ("yes" if step.needs_own else "no"), name
        assert row["it"] == ("weighs" if step.weighs else "makes samples" if step.changes_inputs else "chooses"), name


def test_the_rows_of_predictors_say_what_they_need_and_tell():
    for name, row in rows_in("Predictors", "predictor.share").items():
        predictor = make_predictors(compose([f"predictor.personal={name}"])).personal
        assert words_of(row["needs"]) == predictor.needs, name
        assert row["may be shared"] == ("no" if predictor.tells_labels else "yes"), name


def test_the_rows_of_sets_of_predictors_are_their_files():
    for name, row in rows_in("Predictors", "predictor").items():
        roles = yaml.safe_load((ROOT / "configs" / "predictor" / f"{name}.yaml").read_text())
        assert {role: yaml.safe_load(row[role].strip("`")) for role in roles} == roles


@cache
def what_everybody_holds():
    return load_shared(compose([]))


def check(overrides, config_dir=None):
    """Do all that a run does before it starts, on the digits."""
    configuration = compose(overrides, config_dir)
    shared = what_everybody_holds()
    settings = make_client_settings(configuration, shared)
    strategy = make_strategy(configuration.strategy)
    check_compatible(configuration, strategy, settings, make_architectures(configuration, shared))


def test_every_run_that_the_page_on_learning_names_could_start(beside_the_example):
    runs = [words for words in commands_in(OBJECTIVES) if words[0] == "run"]
    assert len(runs) > 15
    for _, *words in runs:
        own = words[:1] == ["--config-dir"]
        for combination in expand(words[2:] if own else words):
            check(combination, Path(words[1]) if own else None)


def test_every_comparison_that_the_page_on_learning_names_could_start():
    comparisons = [words for words in commands_in(OBJECTIVES) if words[0] == "compare"]
    assert comparisons
    for _, *words in comparisons:
        for run in make_plan([word for word in words if not word.startswith(("output=", "jobs="))]).runs:
            check(run.overrides)


def refused():
    section = OBJECTIVES.read_text().partition("\n## Refused\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)


def test_the_table_of_what_is_refused_is_found():
    assert len(refused()) >= 10


@pytest.mark.parametrize("words", refused())
def test_what_the_page_on_learning_says_is_refused_is(words):
    with pytest.raises(ConfigurationError):
        check(shlex.split(words))


@pytest.fixture
def beside_the_example(tmp_path, monkeypatch, own_search_path):
    blocks = re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", OBJECTIVES.read_text(), re.DOTALL)
    assert [name for name, _ in blocks] == ["reverse.py", "my_configs/objective/reverse.yaml"]
    for name, text in blocks:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_an_objective_of_ones_own_runs(beside_the_example, capsys):
    (words, _) = [words for words in commands_in(OBJECTIVES) if "--config-dir" in words]
    short = ["num_rounds=1", "learn.epochs=1", "absorb.epochs=1", "num_clients=3", "local_baseline=false", "output=run"]
    assert main([*words, *short]) == 0
    assert (beside_the_example / "run" / "summary.json").exists()
    assert "Traceback" not in capsys.readouterr().err


def test_an_objective_of_ones_own_is_the_reverse_divergence(beside_the_example):
    component = compose(["objective=reverse", "objective.weight=2"], Path("my_configs")).objective
    objective = build(component, "objective")
    soft_labels = torch.tensor([[0.5, 0.25, 0.25], [0.2, 0.2, 0.6]], dtype=torch.float64)
    answers = torch.tensor([[0.25, 0.5, 0.25], [0.2, 0.2, 0.6]], dtype=torch.float64)
    outputs = Outputs(answers.log(), answers)
    loss, _ = objective(outputs, {"soft_labels": soft_labels}, torch.tensor([True, True]), {})
    by_hand = 2 * (0.25 * torch.log(torch.tensor(0.5)) + 0.5 * torch.log(torch.tensor(2.0)))
    assert torch.allclose(loss, torch.tensor([by_hand, 0.0], dtype=torch.float64), atol=1e-7)
