"""Settings of SceneRef: content of the scenes, splits, held-out colour-shape pairs, default shares of phenomena."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SPLITS: tuple[str, ...] = ("train", "val", "test", "compositional")

#: Attributes of an object, in the order in which phrases name them.
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

#: (colour, shape) pairs that occur in the split `compositional` only; each colour and each shape once.
HELD_OUT_PAIRS: frozenset[tuple[str, str]] = frozenset(
    {
        ("cyan", "circle"), ("purple", "square"), ("pink", "triangle"), ("brown", "star"), ("white", "ring"),
        ("orange", "cross"), ("black", "hexagon"), ("green", "heart"), ("gray", "crescent"), ("yellow", "diamond"),
        ("blue", "arrow"), ("red", "bar"),
    }
)  # fmt: skip


@dataclass(frozen=True)
class SceneRefSettings:
    """Content of the scenes. A scene depends only on these settings and on (split, seed, index).

    Attributes:
        width: image width in pixels, at least 32.
        height: image height in pixels, at least 32.
        min_objects: minimum number of objects in a scene, 2 to 10.
        max_objects: maximum number of objects in a scene, `min_objects` to 10.
        phrases_per_scene: number of phrases about each scene, 1 to 32; fewer if the scene does not allow as many.
        phenomena: share of each phenomenon among the phrases, normalised to a sum of 1; None for `DEFAULT_PHENOMENA`.
        named: attributes that phrases may name; None for all of `ATTRIBUTES`. For the first stages of a curriculum;
            no-target phrases ignore it.
        difficulty: visual complexity, 0 to 1: frequency of structured backgrounds, occlusion, patterns, rotation,
            lighting, noise and compression. 0 gives uniformly coloured, separate objects on a plain background.
        patterned: share of scenes, 0 to 1, with patterns other than "plain"; None for half of `difficulty`, as in the
            benchmark. Larger shares are for training.

    Raises:
        ValueError: a value outside its range.
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
            raise ValueError(f"width and height must be at least 32; got width {self.width}, height {self.height}.")
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
        """Shorter side of the image in pixels, the unit of sizes and margins."""
        return min(self.width, self.height)

    @property
    def shares(self) -> Mapping[str, float]:
        """Share of each phenomenon."""
        return DEFAULT_PHENOMENA if self.phenomena is None else self.phenomena


def split_number(split: str) -> int:
    """Return the index of a split in `SPLITS`, a part of the seed of its scenes.

    Raises:
        ValueError: unknown split.
    """
    if split not in SPLITS:
        raise ValueError(f"Unknown split {split!r}; expected one of {', '.join(SPLITS)}.")
    return SPLITS.index(split)
