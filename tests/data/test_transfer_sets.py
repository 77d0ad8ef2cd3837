import re
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from fedfuse import assembly, catalogue
from fedfuse.assembly import deal_data, load_federation
from fedfuse.composition import compose
from fedfuse.data.samples import Groups, LabelledData, Samples
from fedfuse.data.split import split
from fedfuse.data.transfer_sets import (
    Chosen,
    collage,
    domain,
    domains_of,
    from_elsewhere,
    gaussian_noise,
    held_out,
    uniform_noise,
)
from fedfuse.errors import ConfigurationError

FOLDER = Path(catalogue.__file__).parents[1] / "configs" / "transfer"
BASE = ["num_clients=4", "transfer.size=40"]


def generator(seed=0):
    return np.random.default_rng(seed)


def table(class_sizes=(100, 60, 40), **others):
    """Samples whose one input is their row."""
    labels = torch.repeat_interleave(torch.arange(len(class_sizes)), torch.tensor(class_sizes))
    inputs = torch.arange(len(labels), dtype=torch.float32).unsqueeze(1)
    return LabelledData(Samples(inputs, labels), tuple("abcdefghij"[: len(class_sizes)]), **others)


def rows_of(data):
    return np.arange(len(data.samples))


def images(number=30, shape=(3, 8, 6)):
    """Images of bytes in which each value is its own: image, channel, line and column can be read off."""
    inputs = torch.arange(number * shape[0] * shape[1] * shape[2], dtype=torch.float32).reshape(number, *shape)
    return LabelledData(Samples(inputs, torch.arange(number) % 3), ("a", "b", "c"))


def recordings(lengths, num_classes=2):
    """Recordings of so many samples, each of one class; in order but for a gap between two."""
    labels = torch.repeat_interleave(torch.arange(len(lengths)) % num_classes, torch.tensor(lengths))
    order = np.concatenate([np.arange(length) for length in lengths])
    order = order + np.repeat(np.cumsum([0, *lengths[:-1]]) + 2 * np.arange(len(lengths)), lengths)
    inputs = torch.arange(len(labels), dtype=torch.float32).unsqueeze(1)
    return LabelledData(Samples(inputs, labels), ("a", "b", "c")[:num_classes], order=order)


def apart(data, one, two):
    """Say whether no sample of one set is a neighbour in time of one of the other."""
    return not set((data.order[one][:, None] + [-1, 1]).ravel()) & set(data.order[two])


# held_out


def test_a_part_with_the_label_mix_is_held_out_and_the_rest_is_kept():
    data = table()
    available = np.arange(0, 200, 2)
    chosen = held_out(data, available, 20, generator())
    assert torch.bincount(data.samples.labels[chosen.rows]).tolist() == [10, 6, 4]
    assert sorted([*chosen.rows, *chosen.kept]) == available.tolist()
    assert torch.equal(chosen.inputs, data.samples.inputs[chosen.rows])


def test_what_is_held_out_is_what_a_split_draws():
    data = table()
    kept, rows = split(data.population, (0.85, 0.15), generator(3))
    chosen = held_out(data, rows_of(data), 30, generator(3))
    assert chosen.rows.tolist() == rows.tolist()
    assert chosen.kept.tolist() == kept.tolist()


@pytest.mark.parametrize(("size", "counts"), [(60, [20, 20, 20]), (159, [79, 60, 20]), (100, [40, 40, 20])])
def test_a_balanced_set_has_equally_many_of_each_class_as_far_as_there_are_any(size, counts):
    data = table((100, 60, 20))
    chosen = held_out(data, rows_of(data), size, generator(), balanced=True)
    assert torch.bincount(data.samples.labels[chosen.rows]).tolist() == counts
    assert sorted([*chosen.rows, *chosen.kept]) == list(range(180))


def test_what_cannot_be_shared_evenly_goes_to_classes_that_are_drawn():
    data = table((50, 50, 50))
    found = set()
    for seed in range(20):
        counts = torch.bincount(data.samples.labels[held_out(data, rows_of(data), 31, generator(seed), True).rows])
        assert sorted(counts.tolist()) == [10, 10, 11]
        found.add(int(counts.argmax()))
    assert found == {0, 1, 2}


def test_a_class_that_nobody_has_does_not_matter_to_balance():
    data = table((30, 0, 30))
    chosen = held_out(data, rows_of(data), 20, generator(), balanced=True)
    assert torch.bincount(data.samples.labels[chosen.rows]).tolist() == [10, 0, 10]


@pytest.mark.parametrize("balanced", [False, True])
def test_a_set_is_in_random_order_and_the_generator_decides_it(balanced):
    data = table()
    one, again, other = (held_out(data, rows_of(data), 60, generator(seed), balanced) for seed in (1, 1, 2))
    assert one.rows.tolist() == again.rows.tolist() != other.rows.tolist()
    for part in (one.rows, one.kept):
        assert (np.diff(data.samples.labels[part]) != 0).sum() > 10


@pytest.mark.parametrize("balanced", [False, True])
def test_nothing_next_to_the_transfer_set_in_time_is_kept(balanced):
    data = recordings([40, 30, 25, 35, 60, 10])
    # The last of a recording and the first of the next are neighbours too, of different classes.
    data = LabelledData(data.samples, data.class_names, order=np.arange(200))
    chosen = held_out(data, rows_of(data), 30, generator(), balanced)
    assert len(chosen.rows) == 30
    assert apart(data, chosen.rows, chosen.kept)
    assert len(chosen.kept) > 140
    if balanced:
        assert torch.bincount(data.samples.labels[chosen.rows]).tolist() == [15, 15]


def test_recordings_of_which_too_few_samples_can_be_apart_are_refused():
    data = recordings([10] * 4)
    with pytest.raises(ConfigurationError, match=r"Of recordings only \d+ of 30 samples can be drawn that are apart"):
        held_out(data, rows_of(data), 30, generator())


@pytest.mark.parametrize("size", [0, 200, 300])
@pytest.mark.parametrize("balanced", [False, True])
def test_a_size_that_leaves_nothing_or_is_nothing_is_refused(size, balanced):
    data = table()
    with pytest.raises(ConfigurationError, match=f"transfer.size={size} must be at least 1 and less than 200"):
        held_out(data, rows_of(data), size, generator(), balanced)


# domain


def test_a_domain_is_the_transfer_set_and_the_rest_of_it_is_nobodys():
    data = table(domains=Groups(("amazon", "dslr", "webcam"), np.arange(200) % 3))
    available = np.arange(20, 200)
    chosen = domain(data, available, 30, generator(), domain="dslr")
    assert set(chosen.rows % 3) == {1}
    assert chosen.kept.tolist() == [row for row in available if row % 3 != 1]
    assert len(chosen.rows) == len(set(chosen.rows)) == 30
    assert torch.equal(chosen.inputs, data.samples.inputs[chosen.rows])
    counts = torch.bincount(data.samples.labels[chosen.rows]).tolist()
    assert counts == [13, 10, 7]
    balanced = domain(data, available, 30, generator(), domain="dslr", balanced=True)
    assert torch.bincount(data.samples.labels[balanced.rows]).tolist() == [10, 10, 10]


def test_a_whole_domain_may_be_the_transfer_set():
    data = table(domains=Groups(("amazon", "dslr"), np.arange(200) % 2))
    assert sorted(domain(data, rows_of(data), 100, generator(), "dslr").rows) == list(range(1, 200, 2))


def test_what_is_next_to_a_domains_samples_in_time_is_nobodys():
    data = table(order=np.arange(200), domains=Groups(("amazon", "dslr"), np.arange(200) // 50 % 2))
    chosen = domain(data, rows_of(data), 100, generator(), "dslr")
    assert sorted(set(range(200)) - set(chosen.rows) - set(chosen.kept)) == [49, 100, 149]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"domain": "dsrl"}, r"Unknown domain 'dsrl'. Did you mean 'dslr'\? Valid: amazon, dslr, empty."),
        ({"domain": "dslr", "size": 101}, "transfer.size=101 must be at least 1 and at most 100, .* of domain dslr"),
        ({"domain": "dslr", "size": 0}, "transfer.size=0 must be at least 1 and at most 100"),
        ({"domain": "empty", "size": 1}, "transfer.size=1 must be at least 1 and at most 0"),
    ],
)
def test_a_domain_that_cannot_be_is_refused(arguments, message):
    data = table(domains=Groups(("amazon", "dslr", "empty"), np.arange(200) % 2))
    with pytest.raises(ConfigurationError, match=message):
        domain(data, rows_of(data), **({"size": 10, "generator": generator()} | arguments))


def test_a_source_without_domains_is_refused():
    with pytest.raises(ConfigurationError, match="The data source has no domains; take another transfer set"):
        domain(table(), np.arange(200), 10, generator(), "amazon")


# noise

NOISES = (uniform_noise, gaussian_noise)


def pixels(dtype):
    inputs = torch.randint(0, 256, (50, 1, 8, 8), dtype=torch.uint8)
    samples = inputs if dtype == torch.uint8 else inputs.to(dtype) / 255
    return LabelledData(Samples(samples, torch.zeros(50, dtype=torch.int64)), ("a", "b"))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize(("make", "mean", "std"), [(uniform_noise, 0.5, 12**-0.5), (gaussian_noise, 0.5, 0.24)])
def test_noise_in_place_of_images_goes_from_0_to_1(make, mean, std, dtype):
    data = pixels(dtype)
    chosen = make(data, np.arange(20), 500, generator())
    assert chosen.inputs.shape == (500, 1, 8, 8)
    assert chosen.inputs.dtype == torch.float32
    assert chosen.inputs.min() >= 0
    assert chosen.inputs.max() <= 1
    assert float(chosen.inputs.mean()) == pytest.approx(mean, abs=0.01)
    assert float(chosen.inputs.std()) == pytest.approx(std, abs=0.01)
    assert chosen.kept.tolist() == list(range(20))
    assert chosen.rows is None


@pytest.mark.parametrize("make", NOISES)
def test_noise_in_place_of_other_samples_has_the_mean_and_deviation_of_each_column_of_those_available(make):
    inputs = torch.tensor([[0.0, 10.0], [2.0, 10.0], [500.0, -500.0]])
    data = LabelledData(Samples(inputs, torch.zeros(3, dtype=torch.int64)), ("a", "b"))
    noise = make(data, np.arange(2), 50_000, generator()).inputs
    torch.testing.assert_close(noise.mean(0), torch.tensor([1.0, 10.0]), atol=0.02, rtol=0)
    torch.testing.assert_close(noise.std(0), torch.tensor([1.0, 0.0]), atol=0.02, rtol=0)


@pytest.mark.parametrize("inputs", [torch.rand(9, 1, 3, 3) * 1.1, torch.rand(9, 1, 3, 3) - 0.1, torch.rand(9, 5)])
def test_only_images_with_pixels_from_0_to_1_have_noise_from_0_to_1(inputs):
    data = LabelledData(Samples(inputs, torch.zeros(9, dtype=torch.int64)), ("a", "b"))
    noise = gaussian_noise(data, np.arange(9), 5_000, generator()).inputs
    assert noise.min() < 0
    assert noise.max() > 1


def test_the_mean_and_deviation_of_gaussian_noise_can_be_given():
    for data in (pixels(torch.uint8), table()):
        noise = gaussian_noise(data, np.arange(9), 20_000, generator(), mean=0.4, std=0.01).inputs
        assert float(noise.mean()) == pytest.approx(0.4, abs=0.001)
        assert float(noise.std()) == pytest.approx(0.01, abs=0.001)
    with pytest.raises(ConfigurationError, match="std=0 must be a positive number"):
        gaussian_noise(table(), np.arange(9), 5, generator(), std=0)


def test_the_shapes_of_noise():
    assert len(torch.unique(uniform_noise(pixels(torch.uint8), np.arange(9), 30, generator()).inputs)) > 1_900
    uniform = uniform_noise(pixels(torch.uint8), np.arange(9), 2_000, generator()).inputs
    assert torch.histc(uniform, 10, 0, 1).std() / uniform.numel() < 0.001
    gaussian = gaussian_noise(table(), np.arange(200), 50_000, generator(), mean=0.0, std=1.0).inputs
    assert float((gaussian.abs() < 1).float().mean()) == pytest.approx(0.6827, abs=0.01)


@pytest.mark.parametrize("make", NOISES)
def test_the_generator_decides_the_noise(make):
    one, again, other = (make(table(), np.arange(200), 5, generator(seed)).inputs for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


# collage


@pytest.mark.parametrize("grid", [1, 2, 3])
def test_every_place_of_a_collage_is_a_crop_of_a_source_image(grid):
    data = images()
    chosen = collage(data, np.arange(5, 30), 40, generator(), grid=grid, sources=4)
    assert chosen.inputs.shape == (40, 3, 8, 6)
    assert chosen.rows is None
    crops = [
        crop
        for lines in chosen.inputs.tensor_split(grid, dim=2)
        for places in lines.tensor_split(grid, dim=3)
        for crop in places
    ]
    assert len(crops) == 40 * grid**2
    sources, corners = set(), set()
    for crop in crops:
        source, corner = divmod(int(crop[0, 0, 0]), 3 * 8 * 6)
        line, column = divmod(corner, 6)
        height, width = crop.shape[1:]
        assert torch.equal(crop, data.samples.inputs[source, :, line : line + height, column : column + width])
        sources.add(source)
        corners.add((line, column))
    assert len(sources) == 4
    # The images are nobody's now, and all other ones are kept.
    assert sorted([*sources, *chosen.kept]) == list(range(5, 30))
    assert len(corners) == 1 if grid == 1 else len(corners) > 10


def test_collages_differ_from_each_other_and_the_generator_decides_them():
    one, again, other = (collage(images(), np.arange(30), 9, generator(seed)).inputs for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert len({sample.numpy().tobytes() for sample in one}) == 9


def test_collages_of_bytes_are_bytes_and_there_may_be_more_than_images():
    chosen = collage(pixels(torch.uint8), np.arange(50), 400, generator(), sources=1)
    assert chosen.inputs.dtype == torch.uint8
    assert len(chosen.inputs) == 400
    assert len(chosen.kept) == 49


@pytest.mark.parametrize(
    ("data", "arguments", "message"),
    [
        (table(), {}, r"A collage is made of images; the samples are of shape \[1\]"),
        (images(), {"grid": 7}, "grid=7 must be at least 1 and at most 6"),
        (images(), {"grid": 0}, "grid=0 must be at least 1"),
        (images(), {"sources": 0}, "sources=0 must be at least 1 and less than 30"),
        (images(), {"sources": 30}, "sources=30 must be at least 1 and less than 30"),
    ],
)
def test_a_collage_that_cannot_be_is_refused(data, arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        collage(data, np.arange(30), 10, generator(), **arguments)


# domains


def test_domains_are_those_of_the_rows_numbered_anew_in_the_order_of_the_source():
    data = table(domains=Groups(("a", "b", "c"), np.repeat([2, 0, 1], [100, 60, 40])))
    chosen = Chosen(torch.zeros(4, 1), kept=np.arange(3), rows=np.array([120, 7, 199, 8]))
    domains = domains_of(chosen, data)
    assert domains.dtype == torch.int64
    assert domains.tolist() == [0, 2, 1, 2]
    # Domain b has no sample: c takes its number.
    assert domains_of(replace(chosen, rows=np.array([120, 7, 110, 8])), data).tolist() == [0, 1, 0, 1]
    assert domains_of(chosen, table()) is None


@pytest.mark.parametrize("make", [held_out, partial(domain, domain="b")])
def test_transfer_sets_of_rows_have_the_domains_of_their_source(make):
    data = table(domains=Groups(("a", "b", "c"), np.arange(200) % 3))
    chosen = make(data, np.arange(150), 40, generator())
    expected = chosen.inputs.flatten().long() % 3
    if make is not held_out:
        assert (expected == 1).all()
        expected = expected * 0
    assert torch.equal(domains_of(chosen, data), expected)


@pytest.mark.parametrize("make", [uniform_noise, gaussian_noise, collage])
def test_what_is_not_of_rows_has_no_domains(make):
    data = replace(images(), domains=Groups(("a", "b"), np.arange(30) % 2))
    assert domains_of(make(data, np.arange(30), 7, generator()), data) is None


# another source


def test_a_transfer_set_of_another_source_is_resized_and_takes_nothing_from_the_clients():
    clients = Samples(torch.rand(20, 1, 4, 4), torch.zeros(20, dtype=torch.int64))
    other = images(9, shape=(3, 8, 8))
    chosen = Chosen(torch.rand(6, 3, 8, 8), kept=np.arange(3), rows=np.arange(6))
    fitted = from_elsewhere(chosen, other, clients, free=np.arange(2, 20))
    assert fitted.inputs.shape == (6, 1, 4, 4)
    assert fitted.kept.tolist() == list(range(2, 20))
    assert fitted.rows is None
    assert fitted.domains is None
    other = replace(other, domains=Groups(("a", "b", "c", "d"), np.array([3, 3, 1, 1, 3, 1, 0, 0, 0])))
    assert from_elsewhere(chosen, other, clients, np.arange(2, 20)).domains.tolist() == [1, 1, 0, 0, 1, 0]


def test_a_transfer_set_of_another_source_that_cannot_fit_is_refused_in_one_line():
    with pytest.raises(ConfigurationError) as caught:
        deal_data(compose([*BASE, "transfer=other_data", "transfer.data=wine"]))
    assert str(caught.value) == (
        "transfer.data does not fit data: samples of shape [13] cannot be made [1, 8, 8]; only grey and colour images "
        "are resized."
    )


def test_images_of_another_source_can_be_the_transfer_set_whatever_its_classes_are(monkeypatch):
    larger = LabelledData(
        Samples(torch.randint(0, 256, (90, 3, 28, 28), dtype=torch.uint8), torch.arange(90) % 4), tuple("wxyz")
    )
    own = assembly.load_data
    monkeypatch.setattr(assembly, "load_data", lambda one: larger if one.name == "wine" else own(one))
    federation = load_federation(compose([*BASE, "transfer=other_data", "transfer.data=wine"]))
    assert federation.shared.transfer.inputs.shape == (40, 1, 8, 8)
    assert federation.shared.transfer.inputs.max() <= 1
    assert federation.shared.class_names == tuple("0123456789")
    # None of the 1,797 digits is given away.
    assert federation.label_counts().sum() + len(federation.shared.global_test) == 1797


# configuration


def test_every_transfer_set_has_the_same_settings_beside_its_source():
    values = {path.stem: OmegaConf.to_container(OmegaConf.load(path)) for path in FOLDER.glob("*.yaml")}
    assert values.keys() == {"held_out", "domain", "uniform_noise", "gaussian_noise", "collage", "other_data"}
    assert values["other_data"] == values["held_out"] | {"data": "???"}
    for one in values.values():
        assert one | {"source": None, "data": None} == values["held_out"] | {"source": None}


def test_every_transfer_set_is_described_in_a_sentence():
    folders = catalogue.folders()
    for name in catalogue.names("transfer", folders):
        assert re.fullmatch(r"[A-Z].*[.E]", catalogue.describe("transfer", name, folders))


@pytest.mark.parametrize(
    ("data", "name"),
    [
        *((data, name) for data in ("digits", "wine") for name in ("held_out", "uniform_noise", "gaussian_noise")),
        ("digits", "collage"),
    ],
)
def test_the_seed_of_the_transfer_set_decides_it(data, name):
    def transfer(seed):
        overrides = [f"data={data}", f"transfer={name}", "transfer.size=20", f"transfer.seed={seed}"]
        return deal_data(compose(overrides)).shared.transfer

    first, again, other = (transfer(seed) for seed in (5, 5, 6))
    assert first.digest == again.digest != other.digest
    assert len(first) == 20
    assert torch.isfinite(first.inputs).all()


def test_what_is_chosen_has_no_labels():
    assert [field.name for field in fields(Chosen)] == ["inputs", "kept", "rows", "domains"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["transfer=other_data"], "transfer.data has no value yet: give one with transfer.data=VALUE."),
        (["transfer=domain"], "transfer.source.domain has no value yet"),
        (["transfer=collages"], "Unknown transfer 'collages'. Did you mean 'collage'?"),
    ],
)
def test_a_transfer_set_that_lacks_a_value_says_which(overrides, message):
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        compose(overrides)
