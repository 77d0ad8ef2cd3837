import json
from pathlib import Path

import pytest
import torch

from fedfuse.assembly import deal_data
from fedfuse.cli import main
from fedfuse.composition import compose

pytestmark = pytest.mark.usefixtures("own_search_path")

WORDS = ("num_clients=4", "transfer.size=40", "seed=5", "partition.alpha=0.2")


def test_describe_says_who_has_what_and_draws_it(capsys):
    assert main(["data", "describe", *WORDS]) == 0
    dealt = deal_data(compose(WORDS))
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "Data digits: 1797 samples of 1 x 8 x 8, float32"
    assert "transfer set 40" in lines
    assert f"4 clients {sum(len(own.samples) for own in dealt.clients)}" in lines
    assert lines[-1] == "Picture: partition.png"
    assert [path.name for path in Path().iterdir()] == ["partition.png"]
    assert Path("partition.png").read_bytes().startswith(b"\x89PNG")


def test_numbers_are_written_as_json(capsys):
    assert main(["data", "describe", "--figure", "mine.png", "--json", "mine.json", *WORDS]) == 0
    numbers = json.loads(Path("mine.json").read_text())
    clients = deal_data(compose(WORDS)).clients
    counts = [torch.bincount(own.samples.labels, minlength=10).tolist() for own in clients]
    assert numbers["label_counts"] == counts
    assert numbers["client_sizes"]["max"] == max(map(sum, counts))
    assert numbers["classes"]["0"] == 178
    assert numbers["num_samples"] == 1797
    assert 0 < numbers["divergence"] < 1
    assert capsys.readouterr().out.splitlines()[-2:] == ["Picture: mine.png", "Numbers: mine.json"]


def test_a_saved_split_is_repeated_exactly_whatever_the_seed(capsys):
    assert main(["data", "describe", *WORDS, "--save", "split.json"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "Split:   split.json"
    first = deal_data(compose(WORDS))
    again = deal_data(compose(["num_clients=4", "partition=file", "partition.path=split.json", "seed=9"]))
    for one, two in zip(first.clients, again.clients, strict=True):
        assert torch.equal(one.samples.inputs, two.samples.inputs)
        assert torch.equal(one.samples.labels, two.samples.labels)
    assert torch.equal(first.shared.transfer.inputs, again.shared.transfer.inputs)
    assert torch.equal(first.shared.global_test.inputs, again.shared.global_test.inputs)
    assert first.num_unused == again.num_unused
    assert main(["data", "describe", "num_clients=4", "partition=file", "partition.path=split.json"]) == 0


def test_a_transfer_set_that_is_not_of_the_data_is_not_in_the_split(capsys):
    Path("noise.py").write_text(
        "import torch\n"
        "from fedfuse.data.transfer_sets import Chosen\n"
        "def noise(pool, available, size, generator, **others):\n"
        "    return Chosen(torch.rand(size, *pool.samples.inputs.shape[1:]), kept=available)\n"
    )
    words = ["data", "describe", "transfer.source._target_=noise.noise", "--save", "split.json"]
    assert main(words) == 0
    assert set(json.loads(Path("split.json").read_text())) == {"clients", "global_test"}
    assert "transfer set, from elsewhere" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "The following arguments are required: {describe}"),
        (["descirbe"], "Argument {describe}: invalid choice: 'descirbe'"),
        (["describe", "--figur", "a.png"], "Unknown option '--figur'. Did you mean '--figure'?"),
        (["describe", "data=digit"], "Unknown data 'digit'. Did you mean 'digits'?"),
        (["describe", "partition=shard"], "Unknown partition 'shard'. Did you mean 'shards'?"),
        (
            ["describe", "partition=natural"],
            "partition natural (fedfuse.data.partitions.natural.natural): The data source does not",
        ),
        (["describe", "partition=file", "partition.path=no.json"], "There is no file no.json."),
        (["describe", "--figure", "full"], "full is a directory; name a file."),
        (["describe", "--save", "none/split.json"], "Cannot write none/split.json: there is no directory none."),
        (["describe", "--json", 300 * "a"], f"Cannot write {300 * 'a'}: File name too long."),
        (["describe", "--save", 250 * "a"], f"Cannot write .{250 * 'a'}.partial: File name too long."),
    ],
)
def test_mistakes_end_with_code_2_and_one_line(words, expected, capsys):
    Path("full").mkdir()
    assert main(["data", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"fedfuse: error: {expected}")
    assert error.count("\n") == 1
