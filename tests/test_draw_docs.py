"""tools/draw_docs.py: the data-flow diagram."""

from __future__ import annotations

from pathlib import Path

import draw_docs
import matplotlib
import pytest
from PIL import ImageFont


@pytest.mark.parametrize("name", draw_docs.BOXES)
def test_text_fits_its_box(name: str) -> None:
    """In bold DejaVu Sans, one of the widest fonts that a browser may choose for sans-serif."""
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf"
    font = ImageFont.truetype(path, draw_docs.FONT_SIZE)
    _, _, width, height, _, lines = draw_docs.BOXES[name]
    assert max(map(font.getlength, lines[:1])) < width - 8
    assert max(map(font.getlength, lines)) < width
    assert len(lines) * draw_docs.LINE_HEIGHT < height


def test_diagram_is_current() -> None:
    """docs/images/model.svg is the output of the tool."""
    assert (Path(draw_docs.__file__).parents[1] / "docs/images/model.svg").read_text() == draw_docs.data_flow() + "\n"
