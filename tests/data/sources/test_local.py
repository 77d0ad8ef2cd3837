import numpy as np
import pytest
from image_files import colour, grey, png, write_hub

from fedfuse.assembly import load_federation
from fedfuse.cli import main
from fedfuse.components import build
from fedfuse.composition import compose
from fedfuse.data.sources.local import local
from fedfuse.errors import ConfigurationError

NAMES = ("cat", "dog")
LABELS = [0, 1, 0, 1, 1]


def write_csv(folder):
    folder.mkdir()
    (folder / "train.csv").write_text("a,b,kind\n1,5,cat\n3,5,dog\n1,5,cat\n")
    (folder / "test.csv").write_text("a,b,kind\n3,5,dog\n3,5,dog\n")


def write_parquet(folder):
    write_hub(folder / "train.parquet", grey(3), LABELS[:3], NAMES)
    write_hub(folder / "test.parquet", grey(2, seed=1), LABELS[3:], NAMES)


def write_images(folder):
    for number, (image, label) in enumerate(zip(colour(5), LABELS, strict=True)):
        path = folder / ("train" if number < 3 else "test") / NAMES[label] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(image))


def write_archive(folder):
    folder.mkdir()
    names = np.array(NAMES)[LABELS]
    np.savez(folder / "all.npz", x_train=grey(3), y_train=names[:3], x_test=grey(2), y_test=names[3:])


LAYOUTS = {
    write_csv: (2,),
    write_parquet: (1, 4, 5),
    write_images: (3, 4, 5),
    write_archive: (1, 4, 5),
}


@pytest.mark.parametrize(("write", "shape"), LAYOUTS.items())
def test_every_layout_is_read_without_a_word_and_the_second_time_alike(tmp_path, write, shape):
    write(tmp_path / "data")
    for _ in range(2):
        data = local(str(tmp_path / "data"))
        assert data.samples.inputs.shape == (5, *shape)
        assert sorted(data.samples.labels.tolist()) == sorted(LABELS)
        assert data.class_names == NAMES
        assert data.official_test.tolist() == [False, False, False, True, True]


@pytest.mark.parametrize("write", LAYOUTS)
def test_other_options_are_not_served_from_the_cache(tmp_path, write):
    write(tmp_path / "data")
    local(str(tmp_path / "data"))
    if write is write_csv:
        assert local(str(tmp_path / "data"), standardize=False).samples.inputs.max() == 5
    else:
        assert local(str(tmp_path / "data"), image_size=8, grey=False).samples.inputs.shape == (5, 3, 8, 8)


def test_a_class_without_images_counts_for_the_cache(tmp_path):
    write_images(tmp_path / "data")
    assert local(str(tmp_path / "data")).class_names == NAMES
    (tmp_path / "data" / "train" / "zebra").mkdir()
    assert local(str(tmp_path / "data")).class_names == (*NAMES, "zebra")


def test_notes_are_said_each_time(tmp_path, capsys):
    write_csv(tmp_path / "data")
    for _ in range(2):
        local(str(tmp_path / "data"))
        assert capsys.readouterr().err == (
            f"fedfuse: note: {tmp_path}/data/train.csv: the label is 'kind', the inputs are 'a', 'b'.\n"
        )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b,label\n1,2,x\n1,,y\n", "a.csv, row 2, column 'b' is empty"),
        ("a,b,label\n1,2,x\n1,nan,y\n", "a.csv, row 2, column 'b' is nan"),
        ("a,b,label\n1,2,x\n1,-inf,y\n", "a.csv, row 2, column 'b' is -inf"),
        ("a,b,label\n1,2,x\n1,2,y\n1,two,y\n", "a.csv, row 3, column 'b' is text, 'two', in a column of numbers"),
        ("a,b,label\n1,2,x\n1,2,\n", "a.csv, row 2, column 'label' is empty"),
        ("a,b,label\n1,2,x\n1,2,x\n", "a.csv: all samples have the label 'x'"),
        (
            "a,b,c\n1,2,3\n1,2,4\n",
            r"Which column of .*a\.csv is the label\? Say data\.label=NAME, one of 'a', 'b', 'c'",
        ),
        ("a,b,label\n", "a.csv has no rows"),
        ("", "a.csv is empty"),
    ],
)
def test_bad_tables_are_one_line_that_says_where(tmp_path, text, message):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ConfigurationError, match=message) as caught:
        local(str(tmp_path / "a.csv"))
    assert "\n" not in str(caught.value)


def test_bad_data_leave_no_cache(tmp_path, own_cache):
    write_hub(tmp_path / "a.parquet", [*grey(2), b"broken"], [0, 1, 0])
    with pytest.raises(ConfigurationError, match="row 3, column 'image' is no image"):
        local(str(tmp_path))
    assert not own_cache.exists()


def test_the_configuration_chooses_files_and_takes_all_options(tmp_path):
    (tmp_path / "a.csv").write_text("a,b,c,who\n1,2,3,p\n3,4,5,q\n1,1,3,p\n")
    words = ["data=local", f"data.path={tmp_path}/a.csv", "data.label=c", "data.inputs=[b]", "data.client=who"]
    configuration = compose([*words, "data.standardize=false"])
    assert [model.name for model in configuration.model] == ["small", "mlp_large"]
    data = build(configuration.data, "data")
    assert data.samples.inputs.tolist() == [[2], [4], [1]]
    assert data.class_names == ("3", "5")
    assert data.natural_clients.names == ("p", "q")
    assert compose([*words, "model=mlp_small", "num_clients=3"]).model[0].name == "mlp_small"


def test_mistakes_in_the_configuration_are_named(tmp_path):
    with pytest.raises(ConfigurationError, match=r"data\.path has no value yet"):
        compose(["data=local"])
    with pytest.raises(ConfigurationError, match=r"Unknown key 'data\.lable'\. Did you mean 'data\.label'"):
        compose(["data=local", "data.path=x", "data.lable=y"])
    with pytest.raises(ConfigurationError, match="Unknown argument 'seed'"):
        build(compose(["data=local", f"data.path={tmp_path}", "++data.seed=3"]).data, "data")
    with pytest.raises(ConfigurationError, match=r"data local .*There is no .*nowhere"):
        build(compose(["data=local", f"data.path={tmp_path}/nowhere"]).data, "data")
    with pytest.raises(ConfigurationError, match=r"data\.image_size must be a whole number"):
        build(compose(["data=local", f"data.path={tmp_path}", "data.image_size=big"]).data, "data")


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path, capsys, own_search_path):
    (tmp_path / "a.csv").write_text("a,label\n1,x\ntwo,y\n3,x\n")
    assert main(["run", "data=local", f"data.path={tmp_path}/a.csv"]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.endswith(f"{tmp_path}/a.csv, row 2, column 'a' is text, 'two', in a column of numbers.")


def test_a_federation_is_made_of_files(tmp_path):
    rows = "".join(f"{number},{number % 7},{'cat' if number % 3 else 'dog'}\n" for number in range(300))
    (tmp_path / "a.csv").write_text(f"a,b,kind\n{rows}")
    words = ["data=local", f"data.path={tmp_path}", "partition=iid", "num_clients=3", "transfer.size=30"]
    federation = load_federation(compose(words))
    assert federation.label_counts().sum() == 300 - 60 - 30
    assert federation.shared.class_names == ("cat", "dog")
