import pytest

from fedfuse.data.sources.options import Options, names_of
from fedfuse.errors import ConfigurationError


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("label", 3),
        ("client", ""),
        ("domain", True),
        ("inputs", (1,)),
        ("inputs", ("",)),
        ("image_size", 0),
        ("image_size", 2.5),
        ("image_size", True),
        ("grey", "yes"),
        ("standardize", None),
    ],
)
def test_a_value_of_another_type_is_named(option, value):
    with pytest.raises(ConfigurationError, match=rf"data\.{option} must be"):
        Options(**{option: value})


def test_inputs_are_one_name_a_list_or_none():
    assert names_of(None) == ()
    assert names_of("x") == ("x",)
    assert names_of(["x", "y"]) == ("x", "y")
    with pytest.raises(ConfigurationError, match=r"data\.inputs must be names of columns, not 3"):
        names_of(3)


def test_an_option_that_means_nothing_is_refused_and_a_default_is_not():
    options = Options(grey=False)
    options.refuse(("image_size", "label"), "there is none")
    with pytest.raises(ConfigurationError, match=r"data\.grey is set, but there is none\."):
        options.refuse(("image_size", "grey"), "there is none")
