"""Charts of runs as PNG files, drawn by matplotlib without a display."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from refersam.files import write_atomically

Point = tuple[float, float]


def save_line_charts(charts: Mapping[str, Mapping[str, Sequence[Point]]], path: Path) -> None:
    """Write charts side by side: by title, the points (x, y) of each line by name; nothing without a finite value."""
    charts = {title: lines for title, lines in charts.items() if _has_numbers(lines)}
    if not charts:
        return
    columns = min(2, len(charts))
    rows = math.ceil(len(charts) / columns)
    figure = Figure((6.4 * columns, 3.6 * rows), layout="constrained")
    for number, (title, lines) in enumerate(charts.items(), 1):
        axes = figure.add_subplot(rows, columns, number)
        for name, points in lines.items():
            marker = "." if len(points) <= 40 else None
            axes.plot([x for x, _ in points], [y for _, y in points], label=name, marker=marker)
        axes.set_title(title, loc="left")
        axes.legend(fontsize="small", framealpha=0.5)
        axes.grid(alpha=0.3)
    _save(figure, path)


def save_range_chart(title: str, rows: Mapping[str, Sequence[float]], path: Path) -> None:
    """Write a chart with a row for each name: its values (at least one), their mean and standard deviation; a vertical
    line marks the mean of the first row.
    """
    means = {name: statistics.fmean(values) for name, values in rows.items()}
    spreads = {name: statistics.stdev(values) if len(values) > 1 else 0.0 for name, values in rows.items()}
    figure = Figure((8, 1.2 + 0.3 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(next(iter(means.values())), color="C1")
    axes.errorbar(list(means.values()), range(len(rows)), xerr=list(spreads.values()), fmt="o", color="C0")
    for place, values in enumerate(rows.values()):
        if len(values) > 1:
            axes.plot(values, [place] * len(values), "o", markerfacecolor="white", color="C0")
    figures = [f"{means[n]:.1f}" + (f" ± {spreads[n]:.1f}" if len(rows[n]) > 1 else "") for n in rows]
    axes.set_yticks(range(len(rows)), [f"{name}: {text}" for name, text in zip(rows, figures, strict=True)])
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.set_title(title, loc="left")
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=100))


def _has_numbers(lines: Mapping[str, Sequence[Point]]) -> bool:
    return any(math.isfinite(y) for points in lines.values() for _, y in points)
