"""Line charts and range charts, drawn with Pillow."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw

WIDTH, HEIGHT = 560, 320  # of a line chart, in pixels
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 14, 46, 30
_FONT = 13
_INK, _GRID = (40, 40, 40), (225, 225, 225)
_COLOURS = (
    (31, 100, 180),
    (214, 90, 20),
    (30, 140, 70),
    (180, 40, 110),
    (120, 90, 190),
    (130, 130, 40),
    (20, 150, 160),
    (110, 110, 110),
    (200, 150, 0),
    (0, 0, 0),
)

Point = tuple[float, float]


def line_chart(title: str, series: Mapping[str, Sequence[Point]]) -> Image.Image:
    """Draw lines over a common x axis, with a legend above.

    Args:
        title: title of the chart.
        series: points (x, y) by name, x ascending; at least one finite point in all.
    """
    places = _flow(list(series))
    top = _TOP + places[-1][1]
    height = top + HEIGHT - _TOP
    image = Image.new("RGB", (WIDTH, height), "white")
    draw = ImageDraw.Draw(image)
    points = [point for line in series.values() for point in line if math.isfinite(point[1])]
    first, last = min(x for x, _ in points), max(x for x, _ in points)
    last = last if last > first else first + 1
    x_ticks, y_ticks = [x for x in ticks([first, last]) if first <= x <= last], ticks([y for _, y in points])

    def place(point: Point) -> Point:
        across = (point[0] - first) / (last - first)
        up = (point[1] - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return _LEFT + across * (WIDTH - _LEFT - _RIGHT), height - _BOTTOM - up * (height - top - _BOTTOM)

    for value in y_ticks:
        y = place((first, value))[1]
        draw.line([(_LEFT, y), (WIDTH - _RIGHT, y)], fill=_GRID)
        draw.text((_LEFT - 6, y), f"{value:.6g}", fill=_INK, anchor="rm", font_size=_FONT)
    for value in x_ticks:
        x = place((value, y_ticks[0]))[0]
        draw.text((x, height - _BOTTOM + 6), f"{value:.6g}", fill=_INK, anchor="mt", font_size=_FONT)
    draw.text((_LEFT, 6), title, fill=_INK, font_size=_FONT + 2)
    for index, ((name, line), (across, down)) in enumerate(zip(series.items(), places, strict=True)):
        colour = _COLOURS[index % len(_COLOURS)]
        placed = [place(point) for point in line if math.isfinite(point[1])]
        if len(placed) > 1:
            draw.line(placed, fill=colour, width=2, joint="curve")
        for px, py in placed if len(placed) <= 40 else []:
            draw.ellipse([px - 2, py - 2, px + 2, py + 2], fill=colour)
        draw.text((across, 26 + down), name, fill=colour, font_size=_FONT)
    return image


def _flow(names: Sequence[str]) -> list[tuple[int, int]]:
    """Return the (x, y) offset in pixels of each name in a legend with line breaks."""
    places = []
    across, down = _LEFT, 0
    for name in names:
        width = _width(name)
        if across > _LEFT and across + width > WIDTH - _RIGHT:
            across, down = _LEFT, down + _FONT + 3
        places.append((across, down))
        across += width + 14
    return places


def range_chart(title: str, rows: Mapping[str, Sequence[float]]) -> Image.Image:
    """Draw the values, mean and standard deviation of each row, with a vertical line at the mean of the first row.

    Args:
        title: title of the chart.
        rows: values by name; at least one value per row.
    """
    means = {name: statistics.fmean(values) for name, values in rows.items()}
    spreads = {name: statistics.stdev(values) if len(values) > 1 else 0.0 for name, values in rows.items()}
    figures = {n: f"{means[n]:.1f}" + (f" ± {spreads[n]:.1f}" if len(rows[n]) > 1 else "") for n in rows}
    left, right = (30 + max(_width(text) for text in texts) for texts in (rows, figures.values()))
    height, across = 26, 460
    image = Image.new("RGB", (left + across + right, _TOP + height * len(rows) + _BOTTOM), "white")
    draw = ImageDraw.Draw(image)
    ends = [means[name] + sign * spreads[name] for name in rows for sign in (-1, 1)]
    marks = ticks([*ends, *(value for values in rows.values() for value in values)])
    bottom = image.height - _BOTTOM

    def place(value: float) -> float:
        return left + (value - marks[0]) / (marks[-1] - marks[0]) * across

    draw.text((10, 8), title, fill=_INK, font_size=_FONT + 2)
    for mark in marks:
        draw.line([(place(mark), _TOP - 8), (place(mark), bottom)], fill=_GRID)
        draw.text((place(mark), bottom + 6), f"{mark:.6g}", fill=_INK, anchor="mt", font_size=_FONT)
    reference = place(next(iter(means.values())))
    draw.line([(reference, _TOP - 8), (reference, bottom)], fill=_COLOURS[1])
    for index, (name, values) in enumerate(rows.items()):
        y, mean, spread = _TOP + height * (index + 0.5), means[name], spreads[name]
        draw.text((left - 16, y), name, fill=_INK, anchor="rm", font_size=_FONT)
        draw.text((image.width - 10, y), figures[name], fill=_INK, anchor="rm", font_size=_FONT)
        draw.line([(place(mean - spread), y), (place(mean + spread), y)], fill=_COLOURS[0], width=3)
        for value in values if len(values) > 1 else ():
            draw.circle((place(value), y), 4, fill="white", outline=_COLOURS[0])
        draw.circle((place(mean), y), 5, fill=_COLOURS[0])
    return image


def _width(text: str) -> int:
    """Return the width of a label in pixels."""
    return int(ImageDraw.Draw(Image.new("RGB", (1, 1))).textlength(text, font_size=_FONT))


def grid(charts: Sequence[Image.Image], columns: int = 2) -> Image.Image:
    """Arrange charts in a grid, in cells of the largest chart's size."""
    columns = min(columns, len(charts))
    width, height = (max(sizes) for sizes in zip(*(chart.size for chart in charts), strict=True))
    sheet = Image.new("RGB", (columns * width, -(-len(charts) // columns) * height), "white")
    for index, chart in enumerate(charts):
        sheet.paste(chart, (index % columns * width, index // columns * height))
    return sheet


def ticks(values: Sequence[float]) -> list[float]:
    """Return three to seven round numbers, whose range contains all values."""
    low, high = min(values), max(values)
    span = high - low or abs(high) or 1.0
    step = 10.0 ** math.floor(math.log10(span / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 4.5)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [number * step for number in range(first, max(last, first + 1) + 1)]
