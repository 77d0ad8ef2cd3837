import pytest

from fedfuse.data.sources.columns import Column, Kind, check_columns, find_roles
from fedfuse.data.sources.options import Options
from fedfuse.errors import ConfigurationError


def columns(**kinds):
    return [Column(name, kind) for name, kind in kinds.items()]


def roles(*given, **options):
    return find_roles(given, Options(**options), "FILE")


NUMBER, TEXT, IMAGE, VECTOR = Kind.NUMBER, Kind.TEXT, Kind.IMAGE, Kind.VECTOR
CLASSES = ("cat", "dog")


def test_what_a_column_holds_comes_before_its_name():
    found = roles(Column("img", IMAGE), Column("label", NUMBER), Column("kind", NUMBER, CLASSES))
    assert (found.kind, found.inputs, found.label) == (IMAGE, ("img",), "kind")


def test_of_several_columns_of_classes_the_name_decides():
    found = roles(Column("img", IMAGE), Column("fine_label", NUMBER, CLASSES), Column("coarse_label", NUMBER, CLASSES))
    assert found.label == "fine_label"
    with pytest.raises(ConfigurationError, match=r"Which column of FILE is the label\? Say data\.label=NAME"):
        roles(Column("img", IMAGE), Column("p", NUMBER, CLASSES), Column("q", NUMBER, CLASSES))


def test_clients_and_domains_are_found_by_name_in_any_case():
    found = roles(*columns(features=VECTOR, Target=NUMBER, Subject=NUMBER, DOMAIN=TEXT))
    assert (found.label, found.client, found.domain, found.inputs) == ("Target", "Subject", "DOMAIN", ("features",))
    assert found.names == ("features", "Target", "Subject", "DOMAIN")
    assert found.note is None


def test_columns_of_numbers_are_the_inputs_and_what_is_used_is_said():
    found = roles(*columns(a=NUMBER, y=NUMBER, city=TEXT, b=NUMBER))
    assert (found.kind, found.inputs, found.label) == (NUMBER, ("a", "b"), "y")
    assert found.note == "FILE: the label is 'y', the inputs are 'a', 'b'; not used: 'city'."


def test_of_many_columns_some_are_said():
    note = roles(*columns(**{f"c{number}": NUMBER for number in range(30)}, label=NUMBER)).note
    assert note.endswith("the inputs are 'c0', 'c1', 'c2', 'c3', 'c4' and 25 more.")


def test_the_last_column_is_the_label_only_if_it_alone_is_text():
    assert roles(*columns(a=NUMBER, b=NUMBER, species=TEXT)).label == "species"
    for unclear in (
        columns(a=NUMBER, b=NUMBER, c=NUMBER),
        columns(city=TEXT, a=NUMBER, species=TEXT),
        columns(species=TEXT, a=NUMBER),
    ):
        with pytest.raises(ConfigurationError, match=r"Which column of FILE is the label\?.*'a'"):
            roles(*unclear)


def test_columns_of_classes_are_no_inputs():
    found = roles(Column("a", NUMBER), Column("fine_label", NUMBER, CLASSES), Column("coarse", NUMBER, CLASSES))
    assert found.inputs == ("a",)
    assert "not used: 'coarse'" in found.note


def test_the_numbers_of_rows_are_no_input():
    assert roles(*columns(**{"Unnamed: 0": NUMBER, "": NUMBER, "a": NUMBER, "label": NUMBER})).inputs == ("a",)


def test_what_is_given_is_taken():
    found = roles(
        *columns(a=NUMBER, b=NUMBER, c=NUMBER, label=NUMBER, user=NUMBER),
        label="c",
        inputs=("b", "a"),
        client="label",
    )
    assert (found.inputs, found.label, found.client, found.note) == (("b", "a"), "c", "label", None)


@pytest.mark.parametrize("role", ["label", "client", "domain", "inputs"])
def test_a_column_that_does_not_exist_is_named_with_the_nearest_one(role):
    name = "heigth"
    with pytest.raises(
        ConfigurationError, match=rf"data\.{role}=heigth: FILE has no such column\. Did you mean 'height'\?"
    ):
        roles(*columns(height=NUMBER, label=NUMBER), **{role: (name,) if role == "inputs" else name})


def test_inputs_that_do_not_go_together_are_refused():
    for inputs in (("img", "a"), ("t",), ("a", "t")):
        with pytest.raises(ConfigurationError, match=r"data\.inputs must be one column of images.*in FILE"):
            roles(*columns(img=IMAGE, a=NUMBER, t=TEXT, label=NUMBER), inputs=inputs)


def test_unclear_or_missing_inputs_are_refused():
    with pytest.raises(ConfigurationError, match=r"several columns of images: say data\.inputs=NAME, one of 'a', 'b'"):
        roles(*columns(a=IMAGE, b=IMAGE, label=NUMBER))
    with pytest.raises(ConfigurationError, match=r"FILE has no column of images.*it has 't'"):
        roles(*columns(t=TEXT, label=NUMBER))


def test_two_columns_of_one_name_are_refused():
    with pytest.raises(ConfigurationError, match="FILE has two columns 'a'"):
        roles(Column("a", NUMBER), Column("label", NUMBER), Column("a", TEXT))


def test_another_part_must_have_the_same_columns():
    found = roles(*columns(a=NUMBER, label=NUMBER))
    check_columns(columns(label=NUMBER, more=TEXT, a=NUMBER), found, "TEST")
    with pytest.raises(ConfigurationError, match="Unknown column of TEST 'a'"):
        check_columns(columns(label=NUMBER, b=NUMBER), found, "TEST")
