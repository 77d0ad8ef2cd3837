"""A second head on the body of any model: it learns from fused knowledge, and the first from the client's own labels.

Two heads on one body are those of DHO (Kang et al., 2025, arXiv 2505.07675): what pulls one head hither and the other
thither meets in the features only.
"""

from collections.abc import Callable

from torch import Tensor, nn

from fedfuse.models.outputs import Outputs

FUSED_HEAD = "fused_head"


def with_fused_head(build_module: Callable[[], nn.Module], embedding_size: int, num_classes: int) -> nn.Module:
    """Build a model and give it a linear layer ``fused_head`` from its features to the logits of its second answer.

    The model's own parameters are drawn before those of the layer: they are what they would be without it.

    Parameters
    ----------
    build_module : Callable[[], nn.Module]
        Makes a model that returns `Outputs`.
    embedding_size : int
        The width of its features.
    num_classes : int
        The number of logits.

    Returns
    -------
    nn.Module
        It returns `Outputs` with ``fused_logits``.
    """
    module = build_module()
    setattr(module, FUSED_HEAD, nn.Linear(embedding_size, num_classes))
    module.register_forward_hook(_answer_twice)
    return module


def _answer_twice(module: nn.Module, inputs: tuple[Tensor, ...], outputs: Outputs) -> Outputs:
    # Looked up in the module that was called, whose parameters may stand for those of another client just now.
    return outputs._replace(fused_logits=module.get_submodule(FUSED_HEAD)(outputs.features))
