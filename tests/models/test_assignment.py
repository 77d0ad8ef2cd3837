import pytest

from fedfuse.errors import ConfigurationError
from fedfuse.models.assignment import assign


def test_clients_ranges_and_others_get_their_models():
    changed = {"name": "cnn", "channels": [4]}
    assert assign({0: "a", "2-3": changed, "others": "b"}, 6) == ["a", "b", changed, changed, "b", "b"]
    assert assign({"1": "a", 0: "b"}, 2) == ["b", "a"]
    assert assign({"0-1": "a", "others": "b"}, 2) == ["a", "a"]


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        ({0: "a"}, "model names none for client 1; add {others: NAME}."),
        ({"0-3": "a"}, "model {0-3: ...}: there is no client 3; num_clients=3."),
        ({0: "a", "0-2": "b"}, "model {0-2: ...}: client 0 has a model already."),
        (
            {"mlp": "a"},
            "model {mlp: ...}: a key must be a client id, a range such as 1-3, or others; "
            "{name: NAME, key: value} changes one model for all.",
        ),
        ({-1: "a"}, "model {-1: ...}: a key must be a client id,"),
    ],
)
def test_mistakes_are_named(models, expected):
    with pytest.raises(ConfigurationError) as caught:
        assign(models, 3)
    assert str(caught.value).startswith(expected)
