import pytest
import torch

from fedfuse.data.images import fit_images
from fedfuse.errors import ConfigurationError


def pixels(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("inputs", [pixels(3, 1, 4, 4), torch.rand(3, 2, 7), torch.rand(5, 13)])
def test_samples_that_fit_are_left_alone(inputs):
    assert fit_images(inputs, inputs.shape[1:]) is inputs


def test_colour_becomes_grey_by_what_each_colour_adds_to_the_brightness():
    pure = torch.zeros(3, 3, 2, 2)
    for colour in range(3):
        pure[colour, colour] = 1
    grey = fit_images(pure, (1, 2, 2))
    assert grey.shape == (3, 1, 2, 2)
    torch.testing.assert_close(grey[:, 0, 0, 0], torch.tensor([0.299, 0.587, 0.114]))
    white = fit_images(torch.full((1, 3, 2, 2), 255, dtype=torch.uint8), (1, 2, 2))
    torch.testing.assert_close(white, torch.ones(1, 1, 2, 2))


def test_grey_becomes_three_equal_colours_and_bytes_numbers_from_0_to_1():
    grey = pixels(2, 1, 5, 5)
    colour = fit_images(grey, (3, 5, 5))
    assert colour.dtype == torch.float32
    for channel in range(3):
        assert torch.equal(colour[:, channel], grey[:, 0].float() / 255)
    assert colour.is_contiguous()


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (1, 5, 11)])
def test_an_even_image_stays_even_at_any_size(shape):
    resized = fit_images(torch.full((2, 1, 16, 16), 0.25), shape)
    torch.testing.assert_close(resized, torch.full((2, *shape), 0.25))


def test_smaller_images_are_averaged_not_sampled():
    checked = (torch.arange(16).reshape(-1, 1) + torch.arange(16)) % 2
    smaller = fit_images(checked.float().reshape(1, 1, 16, 16), (1, 4, 4))
    torch.testing.assert_close(smaller, torch.full((1, 1, 4, 4), 0.5), atol=0.05, rtol=0)


def test_size_and_colour_change_together_and_stay_from_0_to_1():
    fitted = fit_images(pixels(4, 3, 32, 32), (1, 8, 8))
    assert fitted.shape == (4, 1, 8, 8)
    assert fitted.min() >= 0
    assert fitted.max() <= 1


def test_double_precision_is_kept():
    assert fit_images(torch.rand(2, 1, 4, 4, dtype=torch.float64), (3, 8, 8)).dtype == torch.float64


@pytest.mark.parametrize(
    ("own", "wanted"), [((13,), (1, 8, 8)), ((1, 8, 8), (13,)), ((2, 8, 8), (1, 8, 8)), ((1, 8, 8), (4, 8, 8))]
)
def test_what_is_no_grey_or_colour_image_cannot_be_fitted(own, wanted):
    with pytest.raises(ConfigurationError) as caught:
        fit_images(torch.zeros(2, *own), wanted)
    assert str(caught.value) == (
        f"samples of shape {list(own)} cannot be made {list(wanted)}; only grey and colour images are resized."
    )
