"""By how many per cent protection lowers what leaks."""

from collections.abc import Sequence
from statistics import fmean

from fedfuse.audit.audit import Finding


def reduction(protected: Sequence[Finding], plain: Sequence[Finding], above_floor: bool = True) -> float | None:
    r"""Compare what leaks with protection and without, on average over seeds.

    .. math:: 100 \left(1 - \frac{\overline{protected} - \overline{floor}}{\overline{plain} - \overline{floor}}\right)

    Parameters
    ----------
    protected, plain : Sequence[Finding]
        The same finding of runs with a protector, and of the same runs without, a seed after the other.
    above_floor : bool
        Whether to leave out what an attacker gets who learnt nothing, so that 100 is all that can be reached. Without,
        the floors count as zero: the per cent of exposure that Swing Distillation reports (Li et al., 2022, arXiv
        2212.08349), of which 100 is out of reach.

    Returns
    -------
    float or None
        In per cent, below zero where more leaks with protection; None where nothing leaks without protection.

    Raises
    ------
    ValueError
        If there are no findings, or they are not about the same.
    """
    about = {(one.audit, one.subject, one.measure) for one in (*protected, *plain)}
    if not protected or len(protected) != len(plain) or len(about) != 1:
        raise ValueError(f"a reduction is of one finding, with and without protection, for each seed; not {about}")
    remaining = fmean(one.value - above_floor * one.floor for one in protected)
    leaking = fmean(one.value - above_floor * one.floor for one in plain)
    leaks = fmean(one.value - one.floor for one in plain) > 0
    return 100 * (1 - remaining / leaking) if leaks else None
