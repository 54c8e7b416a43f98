"""Colours of SceneRef: twelve names, several RGB values per name, and background colours with enough contrast."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

RGB = tuple[int, int, int]

COLOURS: tuple[str, ...] = (
    "red", "green", "blue", "yellow", "purple", "orange", "pink", "cyan", "brown", "white", "black", "gray",
)  # fmt: skip

#: Achromatic colours.
NEUTRAL: tuple[str, ...] = ("white", "black", "gray")

#: RGB values by name: first `_PRIMARIES` primary or CSS colours (default 1), then other values with that common name.
PALETTE: dict[str, tuple[RGB, ...]] = {
    "red": ((255, 0, 0), (230, 25, 25), (214, 39, 40), (220, 20, 60), (200, 25, 25), (240, 50, 45)),
    "green": ((0, 128, 0), (0, 255, 0), (44, 160, 44), (34, 139, 34), (60, 180, 75), (50, 205, 50), (0, 170, 60)),
    "blue": ((0, 0, 255), (0, 0, 205), (31, 119, 180), (65, 105, 225), (30, 80, 220), (45, 70, 180), (40, 110, 240)),
    "yellow": ((255, 255, 0), (255, 225, 25), (240, 220, 40), (250, 235, 60), (255, 221, 0)),
    "purple": ((128, 0, 128), (145, 30, 180), (138, 43, 226), (110, 40, 160), (160, 32, 240), (148, 80, 190)),
    "orange": ((255, 165, 0), (255, 140, 0), (255, 127, 14), (245, 130, 48), (240, 125, 15)),
    "pink": ((255, 192, 203), (255, 105, 180), (255, 150, 190), (240, 130, 190), (250, 120, 170), (255, 182, 193)),
    "cyan": ((0, 255, 255), (23, 190, 207), (0, 200, 220), (70, 220, 235), (0, 206, 209), (80, 230, 230)),
    "brown": ((165, 42, 42), (139, 69, 19), (140, 86, 60), (120, 70, 30), (145, 85, 40), (101, 67, 33)),
    "white": ((255, 255, 255), (250, 250, 250), (245, 245, 245), (250, 250, 242)),
    "black": ((0, 0, 0), (18, 18, 18), (28, 28, 32), (10, 10, 14)),
    "gray": ((128, 128, 128), (127, 127, 127), (140, 140, 145), (115, 115, 115), (150, 150, 150), (160, 160, 160)),
}
_PRIMARIES: dict[str, int] = {"green": 2}

#: Pairs of names that could describe the same object if only one of the two colours is in the scene.
CONFUSABLE: frozenset[frozenset[str]] = frozenset(
    frozenset(pair)
    for pair in (
        ("red", "brown"), ("orange", "brown"), ("orange", "yellow"), ("red", "orange"), ("pink", "purple"),
        ("pink", "red"), ("cyan", "blue"), ("purple", "blue"), ("gray", "white"), ("gray", "black"), ("cyan", "green"),
    )
)  # fmt: skip

#: Minimum CIE Lab distance between two colours of one scene, and between an object and the background.
MIN_COLOUR_DISTANCE = 28.0
MIN_BACKGROUND_DISTANCE = 32.0

_TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
_WHITE = np.array([0.9505, 1.0, 1.089])


def to_lab(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """Convert (N, 3) sRGB in [0, 255] to (N, 3) CIE Lab (D65), L in [0, 100]."""
    unit = np.asarray(rgb, dtype=np.float64) / 255
    linear = np.where(unit <= 0.04045, unit / 12.92, ((unit + 0.055) / 1.055) ** 2.4)
    xyz = linear @ _TO_XYZ.T / _WHITE
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


def lab_distances(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the (N, M) Euclidean distances between (N, 3) and (M, 3) Lab colours."""
    distances: NDArray[np.float64] = np.sqrt(((a[:, None] - b[None]) ** 2).sum(axis=-1))
    return distances


def sample_palette(rng: np.random.Generator, names: Sequence[str], jitter: float = 6.0) -> dict[str, RGB]:
    """Draw an RGB colour for each name, with a pairwise distance of at least `MIN_COLOUR_DISTANCE` if possible.

    Args:
        rng: random generator.
        names: distinct colour names of the scene.
        jitter: maximum change per channel, 0 to 255, of colours that are not primaries.

    Returns:
        The colours by name; after 12 attempts those with the largest minimum distance.
    """
    best: tuple[float, list[RGB]] = (-1.0, [])
    pure = rng.random() < 0.3
    for attempt in range(12):
        drawn: list[RGB] = []
        for name in names:
            options = PALETTE[name]
            if pure and attempt < 3:
                drawn.append(options[int(rng.random() * _PRIMARIES.get(name, 1))])
                continue
            red, green, blue = options[int(rng.random() * len(options))]
            shift = (rng.random(3) * 2 - 1) * jitter
            if name in NEUTRAL:
                shift[:] = shift[0]
            r, g, b = np.clip(np.rint(np.array([red, green, blue]) + shift), 0, 255).astype(int).tolist()
            drawn.append((r, g, b))
        lab = to_lab(np.array(drawn, dtype=np.float64))
        distances = lab_distances(lab, lab)
        np.fill_diagonal(distances, np.inf)
        least = float(distances.min())
        if least > best[0]:
            best = (least, drawn)
        if least >= MIN_COLOUR_DISTANCE:
            break
    return dict(zip(names, best[1], strict=True))


def _background_candidates(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Draw (count, 3) background colours: white, light, dark and mid grays, pale, deep and saturated colours."""
    kinds = rng.random(count)
    gray = rng.random((count, 1))
    tint = rng.random((count, 3))
    white = np.full((count, 3), 255.0)
    light = np.repeat(205 + 45 * gray, 3, axis=1)
    dark = np.repeat(8 + 60 * gray, 3, axis=1)
    mid = np.repeat(80 + 110 * gray, 3, axis=1)
    pale = 170 + 80 * tint
    deep = 10 + 85 * tint
    strong = 30 + 200 * tint
    edges = (0.2, 0.38, 0.52, 0.6, 0.78, 0.9)
    chosen = np.select(
        [(kinds < edge)[:, None] for edge in edges], [white, light, dark, mid, pale, deep], default=strong
    )
    return np.asarray(chosen, dtype=np.float64)


def sample_background(
    rng: np.random.Generator, fills: Sequence[RGB], spread: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Draw two background colours that contrast with every fill.

    Args:
        rng: random generator.
        fills: colours of the objects.
        spread: maximum difference of the two colours per channel, 0 to 255; 0 gives the same colour twice.

    Returns:
        Two (3,) arrays in [0, 255].
    """
    objects = to_lab(np.array(fills, dtype=np.float64))
    best: tuple[float, NDArray[np.float64], NDArray[np.float64]] | None = None
    for _ in range(4):
        first = _background_candidates(rng, 12)
        second = np.clip(first + (rng.random((12, 3)) * 2 - 1) * spread, 0, 255)
        both = to_lab(np.concatenate([first, second, (first + second) / 2]))
        least = lab_distances(both, objects).min(axis=1).reshape(3, 12).min(axis=0)
        good = np.flatnonzero(least >= MIN_BACKGROUND_DISTANCE)
        index = int(good[0]) if len(good) else int(least.argmax())
        if best is None or least[index] > best[0]:
            best = (float(least[index]), first[index], second[index])
        if len(good):
            break
    if best is None:
        raise RuntimeError("No background was drawn.")
    return best[1], best[2]
