"""What the process of a contestant does: one cell after the other, as it is told on its standard input.

Started by `fedfuse.benchmark.referee` with the contestant's target as its argument.
"""

import importlib
import json
import os
import sys
from typing import TextIO

from fedfuse.benchmark.cells import Cell
from fedfuse.benchmark.turns import CannotCompeteError, Turns
from fedfuse.errors import FedfuseError


def main() -> None:
    """Work until nobody asks."""
    # What libraries print must not come between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    import torch

    torch.set_num_threads(1)
    try:
        work(sys.argv[1], sys.stdin, answers)
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        return


def work(target: str, told: TextIO, answers: TextIO) -> None:
    """Compete in the cell that each line names, and answer: ready, the seconds of each turn, and done or left out.

    Parameters
    ----------
    target : str
        See `fedfuse.benchmark.contestants.Contestant`.
    told : TextIO
        A line of JSON with the values of a cell; then a line begins each turn.
    answers : TextIO
        Lines of JSON.
    """
    while line := told.readline():
        cell = Cell(**json.loads(line))
        try:
            module, _, name = target.partition(":")
            compete = getattr(importlib.import_module(module), name)
            compete(cell, Turns(1 + cell.repeats, told, answers))
            answer: dict[str, bool | str] = {"done": True}
        except EOFError:
            raise
        except Exception as error:  # other people's packages can raise anything
            answer = {"left_out": _in_a_line(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _in_a_line(error: Exception) -> str:
    said = " ".join(str(error).split()).rstrip(".")
    return said if isinstance(error, CannotCompeteError | FedfuseError) else f"{type(error).__name__}: {said}"


if __name__ == "__main__":
    main()
