import torch

from fedfuse.data.samples import LabelledData, Samples
from fedfuse.data.sources.notes import Reading, said


def test_notes_are_said_on_the_standard_error_stream(capsys):
    data = LabelledData(Samples(torch.zeros(2, 1), torch.tensor([0, 1])), ("a", "b"))
    assert said(Reading(data, ("one", "two"))) is data
    assert capsys.readouterr() == ("", "fedfuse: note: one\nfedfuse: note: two\n")
