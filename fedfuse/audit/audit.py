"""What an audit is: it plants what it will look for, and after the run it says how much of that leaked."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fedfuse.client.client import Client, ClientSettings
from fedfuse.client.state import ClientState
from fedfuse.data.federation import Federation

Answers = tuple[Tensor, Tensor]
"""Rows of the transfer set, int64 ``[R]``, and soft labels on them, ``[R, C]``."""


@dataclass(frozen=True)
class Evidence:
    """What is left of a run for attacks to be made from.

    An attack uses of it only what the attacker it stands for would know; the rest is for knowing whether it succeeded.

    Parameters
    ----------
    federation : Federation
        The data, as they were after planting.
    clients : tuple[Client, ...]
        All clients.
    settings : ClientSettings
        How clients worked, protectors included.
    shared : Mapping[int, tuple[Answers, ...]]
        By client, the soft labels that the server received from it, a round after the other: protected, exactly as
        they were sent. Empty where the strategy sends none.
    fused : Mapping[int, tuple[Answers, ...]]
        By client, the soft labels that went back to it, a round after the other.
    states : Mapping[int, ClientState]
        What each client has become in the end.
    runner : str
        See `fedfuse.engine.runner.choose_runner`.
    planted : object
        What this audit's own `Audit.plant` noted.
    seed : int
        The seed of the run.
    """

    federation: Federation
    clients: tuple[Client, ...]
    settings: ClientSettings
    shared: Mapping[int, tuple[Answers, ...]]
    fused: Mapping[int, tuple[Answers, ...]]
    states: Mapping[int, ClientState]
    runner: str
    planted: object
    seed: int


@dataclass(frozen=True)
class Finding:
    """What an attack found out from one subject.

    Parameters
    ----------
    audit : str
        The audit, for example ``"canary"``.
    subject : str
        What was attacked, for example ``"soft labels sent"``.
    measure : str
        What was measured, with its unit.
    value : float
        How much it was.
    low, high : float
        The ends of its 95 % confidence interval.
    floor : float
        What an attacker gets who learnt nothing.
    control : float
        The same measure on the positive control: an unprotected, overfitted client.
    has_power : bool
        Whether the control clearly beats the floor. If not, that nothing was found means nothing.
    """

    audit: str
    subject: str
    measure: str
    value: float
    low: float
    high: float
    floor: float
    control: float
    has_power: bool

    @property
    def verdict(self) -> str:
        """Say in words what was found: ``"no power"``, ``"leaks"`` or ``"no leak found"``."""
        if not self.has_power:
            return "no power"
        # The control leaks for sure, so its side of the floor is the bad one.
        leaks = self.low > self.floor if self.control > self.floor else self.high < self.floor
        return "leaks" if leaks else "no leak found"


class Audit(Protocol):
    """One kind of attack."""

    @property
    def needs(self) -> AbstractSet[str]:
        """The carriers that a strategy must send for this attack to be possible."""
        ...

    def plant(self, federation: Federation, seed: int) -> tuple[Federation, object]:
        """Put into the data what the attack will look for.

        It may change training data and append samples to the transfer set, so that what is attacked is queried. It
        must not change validation and test data.

        Parameters
        ----------
        federation : Federation
            All data of the run, perhaps with what other audits planted; it stays as it is.
        seed : int
            The seed of the run; every draw follows from it, see `fedfuse.randomness`.

        Returns
        -------
        federation : Federation
            The changed data.
        planted : object
            What `measure` has to know of it.
        """
        ...

    def measure(self, evidence: Evidence) -> tuple[Finding, ...]:
        """Attack the run."""
        ...


@dataclass(frozen=True)
class PlantedAudit:
    """An audit of a run, and what it noted when it planted."""

    name: str
    audit: Audit
    planted: object


def plant(audits: Mapping[str, Audit], federation: Federation, seed: int) -> tuple[Federation, list[PlantedAudit]]:
    """Let audits, by name, plant one after the other."""
    planted = []
    for name, audit in audits.items():
        federation, note = audit.plant(federation, seed)
        planted.append(PlantedAudit(name, audit, note))
    return federation, planted


def names_of(audits: Sequence[PlantedAudit]) -> str:
    """List audits for a reader."""
    return ", ".join(one.name for one in audits)


def probe_flags(audits: Sequence[PlantedAudit], num_transfer: int) -> Tensor:
    """Say which transfer samples are probes: what a user would flag who knows which samples are private.

    Parameters
    ----------
    audits : Sequence[PlantedAudit]
        Of their notes, those count that have ``probes``: int64 ``[n]``, rows of the transfer set.
    num_transfer : int
        M, the size of the transfer set after planting.

    Returns
    -------
    Tensor
        bool ``[M]``.
    """
    flags = torch.zeros(num_transfer, dtype=torch.bool)
    for one in audits:
        probes = getattr(one.planted, "probes", None)
        if probes is not None:
            flags[probes] = True
    return flags
