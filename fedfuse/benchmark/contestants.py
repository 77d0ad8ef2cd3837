"""Who does the work, each in a process of its own, and how many clients are measured of each."""

from dataclasses import dataclass, replace

from fedfuse.benchmark.cells import DISTILLATION, MODELS, ROUND, TRAINING, WORKS, Cell


@dataclass(frozen=True)
class Contestant:
    """One way to do the work.

    Parameters
    ----------
    target : str
        The function that does it, as ``module:name``; it takes a cell and `fedfuse.benchmark.turns.Turns`.
    works : tuple[str, ...]
        What it can do.
    together : bool
        Whether it computes clients together, so that many do not take long.
    """

    target: str
    works: tuple[str, ...]
    together: bool = False

    def cell_measured(self, cell: Cell) -> Cell:
        """Take as many of a cell's clients as can be measured in a reasonable time."""
        model = MODELS[cell.model]
        return replace(cell, clients=min(cell.clients, model.most_together if self.together else model.most_one_by_one))


PLAIN_LOOP, RAY, LOCAL, PRODUCT = "plain loop", "Flower on Ray", "fedfuse local", "matrix product"
CONTESTANTS = {
    PLAIN_LOOP: Contestant("fedfuse.benchmark.plain_loop:compete", tuple(WORKS)),
    "fedfuse sequential": Contestant("fedfuse.benchmark.runners:sequential", (TRAINING, DISTILLATION)),
    "fedfuse stacked": Contestant("fedfuse.benchmark.runners:stacked", (TRAINING, DISTILLATION), together=True),
    "pfl-research": Contestant("fedfuse.benchmark.pfl_research:compete", (TRAINING,)),
    LOCAL: Contestant("fedfuse.benchmark.whole_rounds:local", (ROUND,), together=True),
    "fedfuse workers": Contestant("fedfuse.benchmark.whole_rounds:workers", (ROUND,), together=True),
    RAY: Contestant("fedfuse.benchmark.whole_rounds:ray", (ROUND,)),
    # Says what the machine can do, on one thread.
    PRODUCT: Contestant("fedfuse.benchmark.matrix_product:compete", tuple(WORKS)),
}
