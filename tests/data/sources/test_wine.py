import numpy as np
import torch
from sklearn.datasets import load_wine

from fedfuse.assembly import load_federation, make_architectures
from fedfuse.composition import compose
from fedfuse.data.sources.wine import wine


def test_wines_are_the_measurements_of_scikit_learn_standardised_by_column():
    samples, expected = wine().samples, load_wine()
    assert samples.inputs.dtype == torch.float32
    columns = expected.data
    standardised = (columns - columns.mean(0)) / columns.std(0)
    np.testing.assert_allclose(samples.inputs.numpy(), standardised, rtol=1e-6, atol=1e-6)
    assert samples.labels.tolist() == expected.target.tolist()


def test_class_names_and_counts():
    data = wine()
    assert data.class_names == ("grower 1", "grower 2", "grower 3")
    assert torch.bincount(data.samples.labels).tolist() == [59, 71, 48]


def test_a_federation_of_five_works_with_every_default():
    for seed in range(5):
        configuration = compose(["data=wine", f"seed={seed}"])
        federation = load_federation(configuration)
        assert len(federation.clients) == 5
        assert len(federation.shared.transfer) == 30
        assert federation.label_counts().sum(axis=1).min() >= 10
    names = [architecture.name for architecture in make_architectures(configuration, federation.shared)]
    assert names == ["mlp_small", "logistic_regression"]
