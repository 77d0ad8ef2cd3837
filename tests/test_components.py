import pytest

from fedfuse.components import build
from fedfuse.configuration import Component
from fedfuse.errors import ConfigurationError
from fedfuse.objectives.kd import KD

SOURCE = """
from fedfuse.errors import ConfigurationError

LIMIT = 3


class Strategy:
    def __init__(self, strength, *, sharpness=1.0, seed=0):
        if strength == "unknown":
            raise ConfigurationError("strength is not known")
        if strength < 0:
            raise ValueError("must not be\\n   negative")
        if strength > 100:
            raise RuntimeError("a bug")
        self.values = (strength, sharpness, seed)


def anything(**values):
    return values
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module of a user's own and return its name."""

    def write(source=SOURCE):
        name = "own_" + "".join(letter if letter.isalnum() else "_" for letter in tmp_path.name)
        (tmp_path / f"{name}.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
        return name

    return write


def refused(component, **extra):
    """Build a component that cannot be built; return the one line of the error, and the error."""
    with pytest.raises(ConfigurationError) as caught:
        build(component, "strategy", **extra)
    label = f"strategy {component.name} ({component.target}): "
    assert str(caught.value).startswith(label)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(label), caught.value


def test_target_is_called_with_configured_and_given_arguments(module):
    component = Component("custom", f"{module()}.Strategy", {"strength": 2, "sharpness": 0.5})
    assert build(component, "strategy", seed=7).values == (2, 0.5, 7)


def test_target_can_be_a_function_that_takes_anything(module):
    component = Component("custom", f"{module()}.anything", {"one": [1]})
    assert build(component, "data", two=2) == {"one": [1], "two": 2}


def test_target_without_a_signature_can_be_built():
    assert build(Component("zeros", "builtins.dict", {"a": 1}), "data", b=2) == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("no_such_package.Strategy", "there is no module 'no_such_package', neither installed nor in the"),
        ("fedfuse.no_such.Strategy", "there is no module 'fedfuse.no_such', neither"),
        ("fedfuse.errors.inner.Strategy", "there is no module 'fedfuse.errors.inner', neither"),
        ("Strategy", "_target_ must be module.Class, for example my_package.MyStrategy."),
        (".Strategy", "_target_ must be module.Class, for example my_package.MyStrategy."),
    ],
)
def test_target_that_cannot_be_found(target, expected):
    message, _ = refused(Component("custom", target, {}))
    assert message.startswith(expected)


def test_name_that_the_module_lacks_is_answered_with_the_nearest(module):
    name = module()
    message, _ = refused(Component("custom", f"{name}.Strategi", {}))
    assert message == (
        f"Unknown name in module {name} 'Strategi'. Did you mean 'Strategy'? "
        "Valid: ConfigurationError, Strategy, anything."
    )


def test_target_that_cannot_be_called(module):
    message, _ = refused(Component("custom", f"{module()}.LIMIT", {}))
    assert message == "it cannot be called: it is of type int, not a class or function."


def test_unknown_argument_is_answered_with_the_nearest_that_a_user_can_give(module):
    component = Component("custom", f"{module()}.Strategy", {"strenght": 2})
    message, _ = refused(component, seed=0)
    assert message == "Unknown argument 'strenght'. Did you mean 'strength'? Valid: sharpness, strength."


def test_missing_argument_is_named(module):
    message, _ = refused(Component("custom", f"{module()}.Strategy", {"sharpness": 2}))
    assert message == "it needs a value for strength."


def test_argument_that_fedfuse_gives_cannot_be_configured(module):
    message, _ = refused(Component("custom", f"{module()}.Strategy", {"strength": 1, "seed": 3}), seed=0)
    assert message == "seed is given by fedfuse itself and cannot be configured."


def test_bad_value_names_the_arguments_and_keeps_the_cause(module):
    message, error = refused(Component("custom", f"{module()}.Strategy", {"strength": -1}))
    assert message == "must not be negative (given strength=-1)"
    assert isinstance(error.__cause__, ValueError)


def test_value_of_a_wrong_type_names_the_arguments_and_keeps_the_cause(module):
    message, error = refused(Component("custom", f"{module()}.Strategy", {"strength": None}))
    assert message.endswith("(given strength=None)")
    assert isinstance(error.__cause__, TypeError)


def test_error_for_users_in_a_constructor_gets_the_name_of_the_component(module):
    message, _ = refused(Component("custom", f"{module()}.Strategy", {"strength": "unknown"}))
    assert message == "strength is not known"


def test_other_errors_in_a_constructor_are_bugs_and_pass_unchanged(module):
    with pytest.raises(RuntimeError, match="a bug"):
        build(Component("custom", f"{module()}.Strategy", {"strength": 101}), "strategy")


@pytest.mark.parametrize(
    ("source", "expected", "cause"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero", ZeroDivisionError),
        (
            "import no_such_dependency",
            "ModuleNotFoundError: No module named 'no_such_dependency'",
            ModuleNotFoundError,
        ),
        ("from math import no_such", "ImportError: cannot import name 'no_such' from 'math'", ImportError),
        ("class Strategy(", "SyntaxError: '(' was never closed", SyntaxError),
    ],
)
def test_error_in_the_users_own_module_is_told_and_kept(module, source, expected, cause):
    name = module(source)
    message, error = refused(Component("custom", f"{name}.Strategy", {}))
    assert message.startswith(f"importing {name} failed with {expected}")
    assert isinstance(error.__cause__, cause)


def test_parts_that_a_component_is_made_of_are_built_first_and_shown_by_name():
    term = {"name": "kd", "target": "fedfuse.objectives.kd.KD", "arguments": {"temperature": 2.0}}
    made = build(
        Component("sum", "fedfuse.objectives.sum.Sum", {"terms": [term, term], "weights": [1, 2]}), "objective"
    )
    assert list(made.terms) == [KD(2.0), KD(2.0)]
    with pytest.raises(ConfigurationError, match=r"\(given terms=\[kd, kd\], weights=\[1\]\)$"):
        build(Component("sum", "fedfuse.objectives.sum.Sum", {"terms": [term, term], "weights": [1]}), "objective")
    with pytest.raises(ConfigurationError, match=r"\(given loss=prototype\)$"):
        loss = {"name": "prototype", "target": "fedfuse.objectives.prototype.Prototype", "arguments": {}}
        build(Component("standardised", "fedfuse.objectives.standardised.Standardised", {"loss": loss}), "objective")
