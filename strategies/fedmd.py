"""FedMD: distil from the consensus of all clients (Li and Wang, 2019, arXiv 1910.03581)."""

from fedfuse.strategy import FusionStrategy


class FedMD(FusionStrategy):
    """FedMD: one consensus for all, the mean of the clients' answers on the transfer set.

    The paper averages logits. Soft labels stand for logits here: after a softmax the mean of log-probabilities equals
    the mean of logits. Digest is ``absorb``, revisit is ``learn``; unlike the paper the transfer set is unlabelled,
    digest is distillation by the configured objective, and there is no pretraining.

    Parameters
    ----------
    space : str
        Where the mean is taken: ``"logit"`` as in the paper, or ``"probability"``.
    """

    sends = returns = frozenset({"soft_labels"})

    def __init__(self, space: str = "logit") -> None:
        if space not in ("logit", "probability"):
            raise ValueError(f"space={space!r} must be logit or probability")
        self.space = space
