import pytest

from fedfuse.errors import ConfigurationError
from fedfuse.models.image import image_shape


def test_the_shape_of_an_image_is_channels_height_and_width():
    assert image_shape("LeNet", [3, 8, 9], smallest=8) == (3, 8, 9)


@pytest.mark.parametrize("shape", [(64,), (9, 128), (1, 1, 8, 8)])
def test_a_sample_that_is_no_image_is_refused_with_models_that_would_fit(shape):
    with pytest.raises(ConfigurationError) as refused:
        image_shape("LeNet", shape)
    assert str(refused.value) == (
        f"A LeNet needs images [channels, height, width]; the shape of a sample is {list(shape)}. "
        "The models mlp_small and small take samples of any shape."
    )


@pytest.mark.parametrize("shape", [(1, 8, 7), (1, 7, 8), (0, 8, 8)])
def test_an_image_that_is_too_small_is_refused_with_the_least_size(shape):
    with pytest.raises(ConfigurationError) as refused:
        image_shape("LeNet", shape, smallest=8)
    assert str(refused.value) == (
        "A LeNet needs images of 8x8 or larger with at least one channel; these are "
        f"{shape[1]}x{shape[2]} with {shape[0]}."
    )
