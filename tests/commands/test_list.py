import re

import pytest

from fedfuse.cli import main
from fedfuse.commands.list import TABLES

pytestmark = pytest.mark.usefixtures("own_search_path")


def test_list_shows_every_table(capsys):
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    for table in TABLES:
        assert re.search(rf"^{table} \(", text, re.MULTILINE)
    assert re.search(r"^  kd +Knowledge distillation: ", text, re.MULTILINE)
    assert re.search(r"^  soft_labels +Class probabilities ", text, re.MULTILINE)
    assert re.search(r"^  random_subset +A random share of the transfer set", text, re.MULTILINE)
    assert re.search(r"^  custom +A strategy of your own: strategy=custom ", text, re.MULTILINE)


def test_list_of_one_table_shows_the_users_own_parts(capsys, tmp_path):
    (tmp_path / "own" / "partition").mkdir(parents=True)
    (tmp_path / "own" / "partition" / "by_day.yaml").write_text("# Each client one day.\n_target_: own.by_day\n")
    assert main(["list", "partitions", "--config-dir", "own"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "partitions (partition=NAME)"
    assert lines[1].split(maxsplit=1) == ["by_day", "Each client one day."]
    shipped = ["dirichlet", "dirichlet_in_domain", "file", "iid", "natural", "pathological", "shards"]
    sizes = ["size_exponential", "size_linear"]
    assert [line.split()[0] for line in lines[1:-1]] == ["by_day", "by_domain", *shipped, *sizes]


def test_list_of_corruptions_says_what_each_does(capsys):
    assert main(["list", "corruptions"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "corruptions (corruption=[NAME,...])"
    assert lines[1].startswith("  noisy_features  Gaussian noise on the inputs")
    assert lines[2].startswith("  noisy_labels    In a share of the clients,")
