import pytest

from fedfuse.client.failure import failure_of
from fedfuse.client.learn import DivergedError
from fedfuse.client.learn_privately import DeltaTooLargeError
from fedfuse.client.phases import MissingStateError
from fedfuse.knowledge import InvalidKnowledgeError

SECRET = "/home/ada/labels.csv: row 17 holds 0.25"


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (DivergedError, "diverged"),
        (DeltaTooLargeError, "delta-too-large"),
        (InvalidKnowledgeError, "refused"),
        (MissingStateError, "no-state"),
        (ValueError, "failed"),
        (FileNotFoundError, "failed"),
        (KeyError, "failed"),
        (Exception, "failed"),
    ],
)
def test_a_failure_has_a_code_and_nothing_of_the_text_of_its_exception(kind, code):
    failure = failure_of(kind(SECRET))
    assert failure.code == code
    assert failure.text
    for part in SECRET.split():
        assert part not in failure.text
    assert failure == failure_of(kind("something else"))


def test_causes_and_notes_do_not_travel_either():
    try:
        try:
            raise ValueError(SECRET)
        except ValueError as cause:
            raise RuntimeError(SECRET) from cause
    except RuntimeError as error:
        error.add_note(SECRET)
        failure = failure_of(error)
    assert failure.text == "RuntimeError; the client's own log has the details"


def test_an_unforeseen_failure_is_named_by_its_kind():
    assert failure_of(ZeroDivisionError(SECRET)).text.startswith("ZeroDivisionError;")
