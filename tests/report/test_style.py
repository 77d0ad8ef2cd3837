import re

import pytest

from fedfuse.report.chart import SHADES
from fedfuse.report.style import STYLE

SCHEMES = dict(zip(("light", "dark"), re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL), strict=False))
COLOURS = {name: dict(re.findall(r"--([\w-]+): (#\w{6});", block)) for name, block in SCHEMES.items()}


def luminance(colour):
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_that_of_the_web_guidelines():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)


@pytest.mark.parametrize("scheme", COLOURS)
@pytest.mark.parametrize("colour", ["ink", "quiet", "accent", "second", "grey", "good", "bad"])
def test_text_and_lines_stand_out_from_the_paper(scheme, colour):
    colours = COLOURS[scheme]
    assert contrast(colours[colour], colours["paper"]) >= 4.5


@pytest.mark.parametrize("scheme", COLOURS)
def test_the_numbers_in_a_heat_map_can_be_read(scheme):
    (dark_cells,) = re.findall(r"td:is\(([^)]*)\) \{ color: var\(--on-high\)", STYLE)
    high = [int(shade) for shade in re.findall(r"\.s(\d+)", dark_cells)]
    colours = COLOURS[scheme]
    for shade in range(SHADES + 1):
        on = colours["on-high" if shade in high else "on-low"]
        assert contrast(on, colours[f"shade-{shade}"]) >= 4.5


def test_every_shade_of_a_heat_map_has_its_colour():
    assert re.findall(r"\.s(\d+) \{ background: var\(--shade-(\d+)\)", STYLE) == [
        (str(s), str(s)) for s in range(SHADES + 1)
    ]
