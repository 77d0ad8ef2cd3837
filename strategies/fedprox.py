"""FedProx: FedAvg whose clients stay near the common weights (Li et al., MLSys 2020, arXiv 1812.06127, algorithm 2)."""

from strategies.fedavg import FedAvg


class FedProx(FedAvg):
    """FedProx: the mean of the clients' weights, with every training step pulled back to the common ones.

    What is sent and fused is as in `FedAvg`. The proximal term is the clients' part: they train with
    ``learn.proximal``, which is this ``proximal`` unless it is set by itself. The pull is towards the weights that a
    round's training started from, which are the common ones. Unlike the paper's, clients train for a fixed number of
    epochs, not to a given inexactness. Fusion space: parameters.

    Parameters
    ----------
    proximal : float
        mu, at least 0, of which 0 is FedAvg.

    Raises
    ------
    ValueError
        If it is negative.
    """

    def __init__(self, proximal: float = 0.01) -> None:
        if proximal < 0:
            raise ValueError(f"proximal must be at least 0, not {proximal}")
        self.proximal = proximal
