"""Settings of SceneRef, its splits, the colour-shape pairs it holds out, and the default mix of phenomena."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SPLITS: tuple[str, ...] = ("train", "val", "test", "compositional")

#: What describes an object, in the order that it is said in.
ATTRIBUTES: tuple[str, ...] = ("size", "pattern", "colour", "shape")

#: Share of each phenomenon among the phrases. A phrase's first tag is one of these names.
DEFAULT_PHENOMENA: dict[str, float] = {
    "attribute": 0.26,
    "absolute": 0.18,
    "relative": 0.12,
    "comparison": 0.08,
    "ordinal": 0.07,
    "negation": 0.06,
    "several": 0.11,
    "no-target": 0.12,
}

#: (colour, shape) pairs that only the split `compositional` shows or asks for: each colour once, each shape once.
HELD_OUT_PAIRS: frozenset[tuple[str, str]] = frozenset(
    {
        ("cyan", "circle"), ("purple", "square"), ("pink", "triangle"), ("brown", "star"), ("white", "ring"),
        ("orange", "cross"), ("black", "hexagon"), ("green", "heart"), ("gray", "crescent"), ("yellow", "diamond"),
        ("blue", "arrow"), ("red", "bar"),
    }
)  # fmt: skip


@dataclass(frozen=True)
class SceneRefSettings:
    """What the scenes are like. A scene depends on these settings and on (split, seed, index) alone.

    Attributes:
        width: picture width in pixels, at least 32.
        height: picture height in pixels, at least 32.
        min_objects: fewest objects in a picture, 2 to 10.
        max_objects: most objects in a picture, `min_objects` to 10.
        phrases_per_scene: phrases about each picture, 1 to 32; a picture that cannot carry so many has fewer.
        phenomena: share of each phenomenon among the phrases, need not sum to one; None for `DEFAULT_PHENOMENA`.
        named: attributes that a phrase may describe objects by; None for all of `ATTRIBUTES`. For the first
            lessons of a curriculum; phrases without target ignore it.
        difficulty: 0 to 1: how often backgrounds are busy, objects occluded, patterned or turned, and the picture lit,
            noisy or compressed. 0 draws flat plain objects apart from each other on a plain background.
        patterned: share of pictures, 0 to 1, that draw from patterns beside "plain"; None for half of `difficulty`, the
            benchmark's own. More of them is for training.

    Raises:
        ValueError: for a value outside its range.
    """

    width: int = 256
    height: int = 256
    min_objects: int = 2
    max_objects: int = 10
    phrases_per_scene: int = 4
    phenomena: Mapping[str, float] | None = None
    named: tuple[str, ...] | None = None
    difficulty: float = 1.0
    patterned: float | None = None

    def __post_init__(self) -> None:
        if self.width < 32 or self.height < 32:
            raise ValueError(f"A picture needs at least 32 x 32 pixels; got width {self.width}, height {self.height}.")
        if not 2 <= self.min_objects <= self.max_objects <= 10:
            raise ValueError(
                "Expected 2 <= min_objects <= max_objects <= 10; "
                f"got min_objects {self.min_objects}, max_objects {self.max_objects}."
            )
        if not 1 <= self.phrases_per_scene <= 32:
            raise ValueError(f"phrases_per_scene must be 1 to 32; got {self.phrases_per_scene}.")
        if not 0.0 <= self.difficulty <= 1.0:
            raise ValueError(f"difficulty must be from 0 to 1; got {self.difficulty}.")
        if self.patterned is not None and not 0.0 <= self.patterned <= 1.0:
            raise ValueError(f"patterned must be from 0 to 1; got {self.patterned}.")
        if self.named is not None and not (self.named and set(self.named) <= set(ATTRIBUTES)):
            raise ValueError(f"named must be some of {', '.join(ATTRIBUTES)}; got {self.named!r}.")
        shares = self.shares
        unknown = sorted(set(shares) - set(DEFAULT_PHENOMENA))
        if unknown:
            raise ValueError(f"Unknown phenomena {unknown}; expected names among {list(DEFAULT_PHENOMENA)}.")
        if any(not share >= 0 for share in shares.values()) or not 0 < sum(shares.values()) < float("inf"):
            raise ValueError(f"Shares of phenomena must be finite, not negative and not all zero; got {dict(shares)}.")

    @property
    def side(self) -> int:
        """The shorter side in pixels: sizes and margins are shares of it."""
        return min(self.width, self.height)

    @property
    def shares(self) -> Mapping[str, float]:
        """The share of each phenomenon that is wanted."""
        return DEFAULT_PHENOMENA if self.phenomena is None else self.phenomena


def split_number(split: str) -> int:
    """Position of a split in `SPLITS`; part of the seed of its scenes.

    Raises:
        ValueError: for an unknown split.
    """
    if split not in SPLITS:
        raise ValueError(f"Unknown split {split!r}; expected one of {', '.join(SPLITS)}.")
    return SPLITS.index(split)
