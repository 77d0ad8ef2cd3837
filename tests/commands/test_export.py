from pathlib import Path

import pytest
import torch

from fedfuse.assembly import deal_data
from fedfuse.cli import main
from fedfuse.composition import compose
from fedfuse.data.files import read_client, read_shared

pytestmark = pytest.mark.usefixtures("own_search_path")

WORDS = ("num_clients=3", "transfer.size=40", "seed=5")


def test_files_hold_what_a_simulation_deals_out():
    assert main(["export", "my data", *WORDS]) == 0
    dealt = deal_data(compose(WORDS))
    names = ["client-0.npz", "client-1.npz", "client-2.npz", "transfer.npz"]
    assert sorted(path.name for path in Path("my data").iterdir()) == names
    shared = read_shared(Path("my data/transfer.npz"))
    assert shared.transfer.digest == dealt.shared.transfer.digest
    assert shared.class_names == dealt.shared.class_names
    assert torch.equal(shared.global_test.inputs, dealt.shared.global_test.inputs)
    assert torch.equal(shared.global_test.labels, dealt.shared.global_test.labels)
    for client_id, own in enumerate(dealt.clients):
        written = read_client(Path(f"my data/client-{client_id}.npz"), shared).samples
        assert written.inputs.dtype == own.samples.inputs.dtype
        assert torch.equal(written.inputs, own.samples.inputs)
        assert torch.equal(written.labels, own.samples.labels)


def test_lines_say_what_each_file_holds(capsys):
    assert main(["export", "data", *WORDS]) == 0
    dealt = deal_data(compose(WORDS))
    sizes = [len(own.samples) for own in dealt.clients]
    tests = len(dealt.shared.global_test)
    assert 40 + tests + sum(sizes) == 1797  # all digits
    assert capsys.readouterr().out.splitlines() == [
        f"data/transfer.npz: 40 transfer samples, {tests} test samples, 10 classes",
        *(f"data/client-{client_id}.npz: {size} samples" for client_id, size in enumerate(sizes)),
    ]


def test_empty_directory_is_filled_and_parts_of_the_users_own_are_found(capsys):
    Path("data").mkdir()
    Path("parts/partition").mkdir(parents=True)
    Path("parts/partition/mine.yaml").write_text("_target_: fedfuse.data.partitions.iid.iid\n")
    assert main(["export", "data", "num_clients=2", "--config-dir=parts", "partition=mine"]) == 0
    sizes = [int(line.split()[-2]) for line in capsys.readouterr().out.splitlines()[1:]]
    assert len(sizes) == 2
    assert abs(sizes[0] - sizes[1]) <= 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "The following arguments are required: DIR"),
        (["num_clients=3"], "The first word after export is a directory, not 'num_clients=3'."),
        (["num_clients=3", "data"], "The first word after export is a directory, not 'num_clients=3'."),
        (["data", "sed=3"], "Unknown key 'sed'."),
        (["data", "more"], "Cannot read 'more': write key=value,"),
        (["data", "seed=1,2"], "seed=1,2 gives several values"),
        (["data", "--config-dri=parts"], "Unknown option '--config-dri=parts'. Did you mean '--config-dir'?"),
        (["data", "--config-dir=parts"], "The configuration directory 'parts' does not exist."),
        (["full"], "full exists and is not empty: name another directory."),
        (["full/mine.txt"], "full/mine.txt exists and is not empty: name another directory."),
        (["data", "transfer.size=1797"], "transfer held_out (fedfuse.data.transfer_sets.held_out): transfer.size"),
        (["data", "transfer.path=no.npz"], "There is no file no.npz."),
    ],
)
def test_mistakes_end_with_code_2_and_one_line_and_nothing_is_written(words, expected, capsys):
    Path("full").mkdir()
    Path("full/mine.txt").write_text("mine")
    assert main(["export", *words]) == 2
    output = capsys.readouterr()
    assert output.err.startswith(f"fedfuse: error: {expected}")
    assert output.err.count("\n") == 1
    assert output.out == ""
    assert sorted(map(str, Path().rglob("*"))) == ["full", "full/mine.txt"]
