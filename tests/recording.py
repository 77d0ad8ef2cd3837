"""A strategy for tests that writes down all that it is given, and begins a round only when the test lets it."""

import time
from pathlib import Path

import torch

from strategies.knfu import KnFu

SECONDS_BETWEEN_LOOKS = 0.05


class Recording(KnFu):
    """KnFu-style; a file ``begin-R`` in the directory lets round R begin; one round may be less patient than others."""

    def __init__(self, directory: str, impatient_round: int = 0, seconds: float = 0.0) -> None:
        super().__init__()
        self.directory = Path(directory)
        self.timeouts = {impatient_round: seconds}

    def start(self, grid, *, num_rounds, timeout, first_round=1, **others):
        for number in range(first_round, num_rounds + 1):
            self.rounds.run_round(self, grid, number, self.timeouts.get(number, timeout))

    def configure_train(self, server_round, arrays, config, grid):
        while not (self.directory / f"begin-{server_round}").exists():
            time.sleep(SECONDS_BETWEEN_LOOKS)
        messages = super().configure_train(server_round, arrays, config, grid)
        self._write(f"sent-{server_round}", len(messages))
        return messages

    def fuse(self, knowledge, server):
        self._write(f"knowledge-{knowledge.round}", {"ids": knowledge.client_ids, "labels": knowledge.soft_labels})
        fused = super().fuse(knowledge, server)
        personal = {client: dict(own["soft_labels"]) for client, own in fused.personal.items()}
        self._write(f"fused-{knowledge.round}", personal)
        return fused

    def _write(self, name: str, what: object) -> None:
        torch.save(what, self.directory / f"{name}.pt")
