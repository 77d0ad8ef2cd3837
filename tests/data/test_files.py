from dataclasses import replace

import numpy as np
import pytest
import torch

from fedfuse.data.federation import Shared, TransferSet
from fedfuse.data.files import read_client, read_shared, write_client, write_shared
from fedfuse.data.samples import Samples
from fedfuse.errors import ConfigurationError

# Numbers that a text or a rounding would not bring back.
SPECIAL = torch.tensor([[0.1, -0.0], [1e-45, 3.4e38], [1 / 3, -1e-30]])
SHARED = Shared(
    TransferSet(torch.arange(8, dtype=torch.float32).reshape(4, 2)),
    Samples(SPECIAL, torch.tensor([2, 0, 1])),
    ("circle", "Quadrat, grün", "猫"),
)


def client_arrays(**changes):
    return {"inputs": np.zeros((3, 2), np.float32), "labels": np.array([0, 1, 2])} | changes


def shared_arrays(**changes):
    return {"transfer": np.zeros((4, 2), np.float32), "class_names": np.array(["a", "b", "c"])} | changes


@pytest.fixture
def archive(tmp_path):
    """Return a function that writes an archive of the arrays given, and its path."""

    def write(arrays):
        np.savez(tmp_path / "archive.npz", **arrays)
        return tmp_path / "archive.npz"

    return write


def refused(read, path):
    """Read a file that must be refused; return the text of the error, which is one line, after its path."""
    with pytest.raises(ConfigurationError) as caught:
        read(path)
    assert caught.value.exit_code == 2
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(f"{path}")
    return text.removeprefix(f"{path}").removeprefix(": ").removeprefix(" ")


def read_own(path):
    return read_client(path, SHARED).samples


READERS = {"client": (read_own, client_arrays), "shared": (read_shared, shared_arrays)}


def bits(tensor):
    return tensor.dtype, tensor.shape, tensor.numpy().tobytes()


# What is written is what is read


def test_samples_of_a_client_come_back_bit_by_bit(tmp_path):
    samples = Samples(SPECIAL, torch.tensor([2, 0, 2]))
    write_client(tmp_path / "client.npz", samples)
    read = read_client(tmp_path / "client.npz", SHARED).samples
    assert (bits(read.inputs), bits(read.labels)) == (bits(samples.inputs), bits(samples.labels))
    assert [path.name for path in tmp_path.iterdir()] == ["client.npz"]


def test_what_everybody_holds_comes_back_bit_by_bit(tmp_path):
    write_shared(tmp_path / "transfer.npz", SHARED)
    read = read_shared(tmp_path / "transfer.npz")
    assert bits(read.transfer.inputs) == bits(SHARED.transfer.inputs)
    assert read.transfer.digest == SHARED.transfer.digest
    assert bits(read.global_test.inputs) == bits(SHARED.global_test.inputs)
    assert bits(read.global_test.labels) == bits(SHARED.global_test.labels)
    assert read.class_names == SHARED.class_names
    assert [path.name for path in tmp_path.iterdir()] == ["transfer.npz"]


def test_without_a_test_set_none_is_written_and_none_read(tmp_path):
    write_shared(tmp_path / "transfer.npz", Shared(SHARED.transfer, None, SHARED.class_names))
    with np.load(tmp_path / "transfer.npz") as arrays:
        assert set(arrays) == {"transfer", "class_names"}
    assert read_shared(tmp_path / "transfer.npz").global_test is None


def test_domains_of_transfer_samples_come_back_and_only_where_there_are_any(tmp_path):
    path = tmp_path / "transfer.npz"
    shared = replace(SHARED, transfer=TransferSet(SHARED.transfer.inputs, torch.tensor([1, 0, 2, 1])))
    write_shared(path, shared)
    with np.load(path, allow_pickle=False) as arrays:
        assert arrays["transfer_domains"].dtype.str == "<i8"
        assert arrays["transfer_domains"].tolist() == [1, 0, 2, 1]
    read = read_shared(path).transfer
    assert bits(read.domains) == bits(shared.transfer.domains)
    assert read.digest == shared.transfer.digest != SHARED.transfer.digest
    write_shared(path, SHARED)
    with np.load(path) as arrays:
        assert "transfer_domains" not in arrays
    assert read_shared(path).transfer.domains is None


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint64])
def test_domains_of_any_whole_number_become_int64(archive, dtype):
    domains = read_shared(archive(shared_arrays(transfer_domains=np.array([0, 1, 1, 0], dtype)))).transfer.domains
    assert bits(domains) == bits(torch.tensor([0, 1, 1, 0]))


def test_domains_that_cannot_be_used_are_refused(archive):
    for wrong in (np.array([0, 1]), np.array([0.0, 1, 1, 0]), np.array(["a", "b", "a", "a"]), np.array(1)):
        assert refused(read_shared, archive(shared_arrays(transfer_domains=wrong))) == (
            f"transfer_domains must be a whole number for each of the 4 transfer samples, not {wrong.dtype} "
            f"{wrong.shape}."
        )
    assert refused(read_shared, archive(shared_arrays(transfer_domains=np.array([0, 2, 2, 0])))) == (
        "Domains of transfer samples must be numbered 0, 1, ... without a gap; 2 stands in place of 1."
    )


def test_files_are_plain_arrays_under_their_documented_names(tmp_path):
    write_client(tmp_path / "client.npz", Samples(SPECIAL, torch.tensor([2, 0, 2])))
    write_shared(tmp_path / "transfer.npz", SHARED)
    with np.load(tmp_path / "client.npz", allow_pickle=False) as arrays:
        assert {name: array.dtype.str for name, array in arrays.items()} == {"inputs": "<f4", "labels": "<i8"}
    with np.load(tmp_path / "transfer.npz", allow_pickle=False) as arrays:
        assert set(arrays) == {"transfer", "class_names", "test_inputs", "test_labels"}
        assert arrays["class_names"].tolist() == list(SHARED.class_names)


@pytest.mark.parametrize("dtype", [np.int16, np.int64, np.float16, np.float64, ">f4"])
def test_inputs_of_any_number_become_float32_with_the_same_values(archive, dtype):
    inputs = np.array([[0, 1], [2, 255], [128, 7]]).astype(dtype)
    read = read_own(archive(client_arrays(inputs=inputs)))
    assert read.inputs.dtype == torch.float32
    assert read.inputs.tolist() == [[0, 1], [2, 255], [128, 7]]
    shared = read_shared(archive(shared_arrays(transfer=inputs, test_inputs=inputs, test_labels=np.array([0, 1, 2]))))
    assert shared.transfer.inputs.tolist() == shared.global_test.inputs.tolist() == [[0, 1], [2, 255], [128, 7]]
    assert shared.transfer.inputs.dtype == shared.global_test.inputs.dtype == torch.float32


def test_inputs_of_bytes_are_pixels_which_a_model_sees_from_0_to_1(archive):
    pixels = np.array([[0, 51], [102, 153], [204, 255]], np.uint8)
    read = read_own(archive(client_arrays(inputs=pixels)))
    assert bits(read.inputs) == bits(torch.from_numpy(pixels))
    shared = read_shared(archive(shared_arrays(transfer=pixels)))
    assert shared.transfer.inputs.dtype == torch.float32
    assert shared.transfer.inputs.tolist() == pytest.approx(np.array([[0, 0.2], [0.4, 0.6], [0.8, 1]]))


def test_the_order_in_time_of_a_clients_samples_comes_back(tmp_path, archive):
    order = np.array([7, 3, 4])
    write_client(tmp_path / "client.npz", Samples(SPECIAL, torch.tensor([2, 0, 2])), order)
    assert read_client(tmp_path / "client.npz", SHARED).order.tolist() == [7, 3, 4]
    assert read_client(archive(client_arrays()), SHARED).order is None
    for wrong in (np.array([1, 2]), np.array([0.5, 1, 2])):
        expected = f"order must be a whole number for each of the 3 samples, not {wrong.dtype} {wrong.shape}."
        assert refused(read_own, archive(client_arrays(order=wrong))) == expected


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32, np.uint64])
def test_labels_of_any_whole_number_become_int64(archive, dtype):
    labels = read_own(archive(client_arrays(labels=np.array([2, 0, 1], dtype)))).labels
    assert bits(labels) == bits(torch.tensor([2, 0, 1]))


def test_a_client_without_samples_can_be_read(archive):
    """That its sets would be empty is said where it is split."""
    arrays = client_arrays(inputs=np.zeros((0, 2), np.float32), labels=np.zeros(0, np.int64))
    assert len(read_own(archive(arrays))) == 0


def write_own(path):
    write_client(path, SHARED.global_test)


def write_all(path):
    write_shared(path, SHARED)


@pytest.mark.parametrize("write", [write_own, write_all])
def test_a_file_appears_whole_or_not_at_all(write, tmp_path, monkeypatch):
    def fail_half_way(file, **arrays):
        file.write(b"half a fi")
        raise OSError("disk full")

    path = tmp_path / "file.npz"
    with monkeypatch.context() as broken:
        broken.setattr(np, "savez", fail_half_way)
        with pytest.raises(OSError, match="disk full"):
            write(path)
        assert not path.exists()
    write(path)
    whole = path.read_bytes()
    with monkeypatch.context() as broken:
        broken.setattr(np, "savez", fail_half_way)
        with pytest.raises(OSError, match="disk full"):
            write(path)
    assert path.read_bytes() == whole


# What cannot be used


@pytest.mark.parametrize("kind", READERS)
def test_a_file_that_is_not_there_is_named(kind, tmp_path):
    read, _ = READERS[kind]
    (tmp_path / "directory.npz").mkdir()
    for path in (tmp_path / "nothing.npz", tmp_path / "directory.npz"):
        with pytest.raises(ConfigurationError) as caught:
            read(path)
        assert str(caught.value) == f"There is no file {path}."


@pytest.mark.parametrize("kind", READERS)
def test_a_file_that_is_no_whole_archive_is_refused(kind, archive, tmp_path):
    read, arrays = READERS[kind]
    whole = archive(arrays()).read_bytes()
    np.save(tmp_path / "one.npy", np.zeros((3, 2)))
    contents = {
        "empty": b"",
        "text": b"inputs,labels\n0,1\n",
        "torn": whole[: len(whole) // 2],
        "spoiled": whole[:150] + b"spoiled" + whole[157:],
        "one array": (tmp_path / "one.npy").read_bytes(),
    }
    for name, content in contents.items():
        path = tmp_path / f"{name}.npz"
        path.write_bytes(content)
        assert refused(read, path) == "is no NumPy archive (.npz) of plain arrays."


@pytest.mark.parametrize(("kind", "name"), [("client", "inputs"), ("client", "labels"), ("client", "more")])
def test_pickled_arrays_are_refused_and_never_loaded(kind, name, archive, tmp_path):
    class Hostile:
        def __reduce__(self):
            return (tmp_path.joinpath("touched").touch, ())

    read, arrays = READERS[kind]
    path = archive(arrays(**{name: np.array([Hostile()], dtype=object)}))
    assert refused(read, path) == "is no NumPy archive (.npz) of plain arrays."
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    ("kind", "missing", "others"),
    [
        ("client", "inputs", "labels"),
        ("client", "labels", "inputs"),
        ("shared", "transfer", "class_names"),
        ("shared", "class_names", "transfer"),
    ],
)
def test_an_array_that_is_missing_is_named_with_those_that_are_there(kind, missing, others, archive):
    read, arrays = READERS[kind]
    rest = {name: array for name, array in arrays().items() if name != missing}
    assert refused(read, archive(rest)).startswith(f"has no array '{missing}'; it has {others}")
    assert refused(read, archive({})).startswith(f"has no array '{next(iter(arrays()))}'; it has none")


ONE = np.zeros(3, np.float32)
LABELS = {
    "text": (np.array(["a", "b", "c"]), "labels must be a list of whole numbers, not <U1 (3,)."),
    "floating": (np.array([0.0, 1.0, 2.0]), "labels must be a list of whole numbers, not float64 (3,)."),
    "truth": (np.array([True, False, True]), "labels must be a list of whole numbers, not bool (3,)."),
    "one-hot": (np.eye(3, dtype=np.int64), "labels must be a list of whole numbers, not int64 (3, 3)."),
    "single": (np.array(1), "labels must be a list of whole numbers, not int64 ()."),
    "negative": (np.array([0, -1, 2]), "labels go from -1 to 2; 3 classes allow 0 to 2."),
    "too-large": (np.array([0, 1, 3]), "labels go from 0 to 3; 3 classes allow 0 to 2."),
    "far-too-large": (
        np.array([0, 1, 2**64 - 1], np.uint64),
        f"labels go from 0 to {2**64 - 1}; 3 classes allow 0 to 2.",
    ),
    "too-few": (np.array([0, 1]), "3 inputs and 2 labels."),
    "none": (np.zeros(0, np.int64), "3 inputs and 0 labels."),
}
INPUTS = {
    "text": (np.array([["a"], ["b"], ["c"]]), "{name} must be numbers [n, *shape], not <U1 (3, 1)."),
    "truth": (np.ones((3, 2), bool), "{name} must be numbers [n, *shape], not bool (3, 2)."),
    "complex": (np.ones((3, 2), complex), "{name} must be numbers [n, *shape], not complex128 (3, 2)."),
    "dates": (np.zeros((3, 2), "datetime64[s]"), "{name} must be numbers [n, *shape], not datetime64[s] (3, 2)."),
    "flat": (ONE, "{name} must be numbers [n, *shape], not float32 (3,)."),
    "single": (np.array(1.0), "{name} must be numbers [n, *shape], not float64 ()."),
    "nan": (np.array([[0, 0], [0, np.nan], [0, 0]]), "{name} holds a NaN or an infinity."),
    "infinite": (np.array([[0, 0], [0, -np.inf], [0, 0]]), "{name} holds a NaN or an infinity."),
    "beyond-float32": (np.array([[0, 0], [0, 1e39], [0, 0]]), "{name} holds a NaN or an infinity."),
}


@pytest.mark.parametrize("name", LABELS)
def test_labels_that_cannot_be_used_are_refused(name, archive):
    labels, expected = LABELS[name]
    assert refused(read_own, archive(client_arrays(labels=labels))) == expected


@pytest.mark.parametrize("name", INPUTS)
def test_inputs_that_cannot_be_used_are_refused(name, archive):
    inputs, expected = INPUTS[name]
    assert refused(read_own, archive(client_arrays(inputs=inputs))) == expected.format(name="inputs")
    assert refused(read_shared, archive(shared_arrays(transfer=inputs))) == expected.format(name="transfer")


def test_a_test_set_that_cannot_be_used_is_refused_by_the_names_of_its_arrays(archive):
    def refusal(inputs, labels):
        return refused(read_shared, archive(shared_arrays(test_inputs=inputs, test_labels=labels)))

    for labels, expected in LABELS.values():
        text = refusal(np.zeros((3, 2), np.float32), labels)
        assert text == expected.replace("labels", "test_labels").replace("inputs", "test_inputs")
    for inputs, expected in INPUTS.values():
        assert refusal(inputs, np.zeros(3, np.int64)) == expected.format(name="test_inputs")


def test_samples_of_another_shape_than_those_of_the_transfer_set_are_refused(archive):
    path = archive(client_arrays(inputs=np.zeros((3, 1, 2), np.float32)))
    assert refused(read_own, path) == "its samples are of shape (1, 2), those of the transfer set of (2,)."
    tests = {"test_inputs": np.zeros((3, 1, 2), np.float32), "test_labels": np.zeros(3, np.int64)}
    assert refused(read_shared, archive(shared_arrays(**tests))) == (
        "transfer and test_inputs differ in the shape of a sample."
    )


@pytest.mark.parametrize(
    "names",
    [
        np.array(["a"]),
        np.array([], np.str_),
        np.array(["a", "b", "a"]),
        np.array([1, 2, 3]),
        np.array([b"a", b"b"]),
        np.array([["a", "b"]]),
        np.array("ab"),
    ],
    ids=["one", "none", "repeated", "numbers", "bytes", "table", "text"],
)
def test_class_names_must_be_a_list_of_different_texts(names, archive):
    assert refused(read_shared, archive(shared_arrays(class_names=names))) == (
        "class_names must be a list of at least two different texts."
    )


def test_a_transfer_set_without_samples_is_refused(archive):
    assert refused(read_shared, archive(shared_arrays(transfer=np.zeros((0, 2))))) == "transfer has no samples."


@pytest.mark.parametrize("name", ["test_inputs", "test_labels"])
def test_test_inputs_and_their_labels_need_each_other(name, archive):
    tests = {"test_inputs": np.zeros((3, 2), np.float32), "test_labels": np.zeros(3, np.int64)}
    assert refused(read_shared, archive(shared_arrays(**{name: tests[name]}))) == (
        "test_inputs and test_labels need each other."
    )
