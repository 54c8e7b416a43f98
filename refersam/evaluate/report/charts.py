"""Small charts as inline SVG. Colours and sizes of text are the page's CSS."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from refersam.evaluate.report.facts import TradeOff
from refersam.metrics.calibration import Calibration
from refersam.metrics.clicks import ClickCurve

WIDTH, HEIGHT = 400, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 12, 12, 44  # margins, in the chart's own units

Point = tuple[float, float]


class Plot:
    """Axes to given ends, and what is drawn between them.

    Args:
        label: what the chart shows, for those who cannot see it.
        x_label: of the axis.
        y_label: of the axis.
        x_end: largest value.
        y_end: largest value.
        y_start: smallest value.
    """

    def __init__(
        self,
        label: str,
        x_label: str,
        y_label: str,
        x_end: float = 1.0,
        y_end: float = 1.0,
        y_start: float = 0.0,
    ) -> None:
        self.x_end, self.y_end, self.y_start = x_end, y_end, y_start
        self.parts = [
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">',
            _text((_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 6, x_label, "middle"),
            f'<g transform="translate(12 {(HEIGHT - _BOTTOM + _TOP) / 2:.1f}) rotate(-90)">'
            f"{_text(0, 0, y_label, 'middle')}</g>",
        ]

    def x(self, value: float) -> float:
        """In the chart's own units."""
        return _LEFT + value / self.x_end * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        """In the chart's own units."""
        share = (value - self.y_start) / (self.y_end - self.y_start)
        return HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM)

    def ticks(self, x_values: Sequence[float], y_values: Sequence[float]) -> None:
        """Numbers at the axes and lines across."""
        for value in y_values:
            y = self.y(value)
            self.parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}"/>')
            self.parts.append(_text(_LEFT - 6, y + 4, f"{value:g}", "end"))
        for value in x_values:
            self.parts.append(_text(self.x(value), HEIGHT - _BOTTOM + 16, f"{value:g}", "middle"))

    def bar(self, left: float, right: float, top: float, tip: str) -> None:
        """From 0 to `top`; `tip` shows under the pointer."""
        x, y = self.x(left), self.y(top)
        width, height = max(self.x(right) - x - 1.5, 0.5), self.y(0) - y
        shape = f'<rect class="bar" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}">'
        self.parts.append(f"{shape}<title>{escape(tip)}</title></rect>")

    def line(self, points: Sequence[Point], style: str) -> None:
        """From point to point."""
        path = "L".join(f"{self.x(x):.1f} {self.y(y):.1f}" for x, y in points)
        self.parts.append(f'<path class="{style}" d="M{path}"/>')

    def dot(self, point: Point, tip: str, radius: float = 5, style: str = "dot") -> None:
        """A point with a tip."""
        x, y = self.x(point[0]), self.y(point[1])
        shape = f'<circle class="{style}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}">'
        self.parts.append(f"{shape}<title>{escape(tip)}</title></circle>")

    def svg(self) -> str:
        """The chart."""
        return "".join([*self.parts, "</svg>"])


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def histogram_chart(counts: Sequence[int]) -> str:
    """How many phrases have which IoU."""
    end = _round_up(max(counts, default=0))
    plot = Plot(f"Histogram of the IoU of {sum(counts)} phrases", "IoU", "phrases", y_end=end)
    plot.ticks([0, 0.25, 0.5, 0.75, 1], [0, end / 2, end])
    for index, count in enumerate(counts):
        left, right = index / len(counts), (index + 1) / len(counts)
        plot.bar(left, right, count, f"IoU {left:.2f} to {right:.2f}: {count} phrases")
    return plot.svg()


def calibration_chart(calibration: Calibration) -> str:
    """Mean IoU over mean score; on the diagonal, scores are what they promise."""
    label = f"Reliability diagram, expected calibration error {calibration.error:.3f}"
    plot = Plot(label, "score", "IoU")
    plot.ticks([0, 0.25, 0.5, 0.75, 1], [0, 0.25, 0.5, 0.75, 1])
    plot.line([(0, 0), (1, 1)], "ideal")
    plot.line([(each.mean_score, each.mean_iou) for each in calibration.bins], "curve")
    most = max(each.count for each in calibration.bins)
    for each in calibration.bins:
        tip = f"{each.count} phrases: mean score {each.mean_score:.2f}, mean IoU {each.mean_iou:.2f}"
        plot.dot((each.mean_score, each.mean_iou), tip, 3 + 5 * (each.count / most) ** 0.5)
    return plot.svg()


def trade_off_chart(curve: TradeOff) -> str:
    """N-acc over false alarms, as the threshold rises from the lower left to the upper right."""
    plot = Plot("No-target decision at every threshold", "false alarms, %", "N-acc, %", 100, 100)
    plot.ticks([0, 25, 50, 75, 100], [0, 25, 50, 75, 100])
    plot.line([(0, 0), (100, 100)], "ideal")
    plot.line(curve.points, "curve")
    plot.dot(curve.chosen, f"as evaluated: false alarms {curve.chosen[0]:.1f} %, N-acc {curve.chosen[1]:.1f} %", 6)
    return plot.svg()


def clicks_chart(curve: ClickCurve) -> str:
    """Mean IoU over the number of clicks."""
    values = (*curve.mean_iou, *curve.missed_mean_iou)
    start = 10 * int(min(values) // 10)
    plot = Plot("Mean IoU after clicks", "clicks", "mean IoU, %", curve.clicks, 100, start)
    steps = range(0, curve.clicks + 1, -(-curve.clicks // 5))
    plot.ticks(steps, [start + share * (100 - start) for share in (0, 0.25, 0.5, 0.75, 1)])
    for name, means in (("all phrases", curve.mean_iou), ("phrases missed without a click", curve.missed_mean_iou)):
        if means:
            plot.line(list(enumerate(means)), "curve")
        for count, mean in enumerate(means):
            plot.dot((count, mean), f"{name}, {count} clicks: {mean:.1f} %")
    return plot.svg()


def _round_up(value: int) -> int:
    """An even end for an axis: 1, 2, 4 or 8 tenfolded, not below 2."""
    power = 1
    while True:
        for step in (2, 4, 6, 10):
            if value <= step * power:
                return step * power
        power *= 10
