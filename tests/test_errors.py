import pytest

from fedfuse.errors import ConfigurationError, FedfuseError, TooFewClientsError, unknown_name


@pytest.mark.parametrize(("kind", "code"), [(FedfuseError, 1), (ConfigurationError, 2), (TooFewClientsError, 1)])
def test_every_error_is_one_for_users_and_has_its_exit_code(kind, code):
    assert issubclass(kind, FedfuseError)
    assert kind("text").exit_code == code


def test_unknown_name_tells_the_nearest_name_and_all_of_them_sorted():
    error = unknown_name("strategy", "kfnu", ["local", "knfu"])
    assert isinstance(error, ConfigurationError)
    assert str(error) == "Unknown strategy 'kfnu'. Did you mean 'knfu'? Valid: knfu, local."


def test_unknown_name_guesses_nothing_when_nothing_is_near():
    assert str(unknown_name("model", "zzz", ["mlp", "cnn"])) == "Unknown model 'zzz'. Valid: cnn, mlp."


def test_unknown_name_with_nothing_to_choose_from():
    assert str(unknown_name("model", "mlp", [])) == "Unknown model 'mlp'. Valid: none."


def test_allowed_names_may_come_from_an_iterator():
    text = str(unknown_name("model", "mpl", (name for name in ("mlp", "cnn"))))
    assert text == "Unknown model 'mpl'. Did you mean 'mlp'? Valid: cnn, mlp."
