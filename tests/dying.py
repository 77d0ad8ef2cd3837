"""A protector for tests that changes nothing, but whose process dies at the n-th call that any process makes."""

import os
import signal
from pathlib import Path
from typing import ClassVar

from fedfuse.privacy.guarantee import Guarantee


class Dying:
    carrier: ClassVar[str] = "soft_labels"
    role: ClassVar[str] = "heuristic"
    needs_reference: ClassVar[bool] = False
    uses_private_data: ClassVar[bool] = False

    def __init__(self, directory: str, call: int) -> None:
        self.directory = Path(directory)
        self.call = call

    def __call__(self, soft_labels, context):
        number = 1
        while True:
            try:
                (self.directory / f"call-{number}").touch(exist_ok=False)
                break
            except FileExistsError:
                number += 1
        if number == self.call:
            os.kill(os.getpid(), signal.SIGKILL)
        return soft_labels

    def guarantee(self, exposure, num_rounds) -> Guarantee:
        return Guarantee("dying", "none", "none", "none")
