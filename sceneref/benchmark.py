"""Scene generation from a seed: single scenes, a map-style dataset, an iterable dataset, and phrase-blind baselines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch.utils.data
from numpy.typing import NDArray

from refersam.data.sample import ReferringImage
from refersam.reprs import OneLineRepr
from sceneref.layout import Layout, sample_layout
from sceneref.objects import SceneObject
from sceneref.phrases import ScenePhrase, build_phrase, draw_phenomena
from sceneref.render import render
from sceneref.settings import DEFAULT_PHENOMENA, SceneRefSettings, split_number
from sceneref.view import View

_LAYOUTS = 6


@dataclass(repr=False)
class Scene(OneLineRepr):
    """A rendered image with its objects and phrases.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        objects: objects in drawing order; later objects are on top.
        masks: (num_objects, H, W) bool, visible pixels of each object; the masks are disjoint.
        phrases: phrases, at most `SceneRefSettings.phrases_per_scene`.
    """

    image: NDArray[np.uint8]
    objects: tuple[SceneObject, ...]
    masks: NDArray[np.bool_]
    phrases: tuple[ScenePhrase, ...]

    def target_mask(self, phrase: ScenePhrase) -> NDArray[np.bool_]:
        """Return the (H, W) bool union of the masks of the phrase's targets; all False for a no-target phrase."""
        return np.asarray(self.masks[list(phrase.targets)].any(axis=0), dtype=np.bool_)

    def to_referring_image(self, name: str) -> ReferringImage:
        """Return the image, phrases and target masks as the sample type of `refersam.data`.

        Args:
            name: name of the scene; sample ids are `<name>_<index of the phrase>`.
        """
        return ReferringImage(
            image=self.image,
            phrases=tuple(phrase.text for phrase in self.phrases),
            masks=np.stack([self.target_mask(phrase) for phrase in self.phrases]),
            sample_ids=tuple(f"{name}_{index}" for index in range(len(self.phrases))),
            tags=tuple(phrase.tags for phrase in self.phrases),
        )


def generate_scene(settings: SceneRefSettings, split: str, seed: int, index: int) -> Scene:
    """Generate one scene, which depends only on the arguments.

    Args:
        settings: content of the scenes.
        split: one of `SPLITS`.
        seed: seed of the benchmark, at least 0.
        index: index of the scene, at least 0.

    Returns:
        The scene. Equal arguments give equal bytes on the same machine.

    Raises:
        ValueError: unknown split, or negative seed or index.
        RuntimeError: `min_objects` objects do not fit into the image.
    """
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index must not be negative; got seed {seed}, index {index}.")
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, split_number(split), index])))
    layout, phrases = _layout_with_phrases(settings, split, rng)
    image = render(layout, rng, settings.difficulty)
    return Scene(image, tuple(layout.objects), layout.masks(), tuple(phrases))


def _layout_with_phrases(
    settings: SceneRefSettings, split: str, rng: np.random.Generator
) -> tuple[Layout, list[ScenePhrase]]:
    """Return a layout with phrases of the drawn phenomena.

    If no layout allows all phenomena, return the best of `_LAYOUTS` layouts, completed by phrases of other phenomena.
    """
    wanted = draw_phenomena(rng, settings.shares, settings.phrases_per_scene)
    best: tuple[Layout, View, list[ScenePhrase], set[str], int] | None = None
    for _ in range(_LAYOUTS):
        layout = sample_layout(settings, split, rng)
        view = View(layout.objects, settings, split, rng)
        texts: set[str] = set()
        built = [build_phrase(view, phenomenon, texts) for phenomenon in wanted]
        phrases = [phrase for phrase in built if phrase is not None]
        missing = len(built) - len(phrases)
        if best is None or missing < best[4]:
            best = (layout, view, phrases, texts, missing)
        if not missing:
            break
    if best is None:
        raise RuntimeError("No layout was drawn.")
    layout, view, phrases, texts, missing = best
    for _ in range(4 * missing):
        if len(phrases) == len(wanted):
            break
        phrase = build_phrase(view, draw_phenomena(rng, settings.shares, 1)[0], texts)
        if phrase is not None:
            phrases.append(phrase)
    for phenomenon in ("attribute", "no-target", *DEFAULT_PHENOMENA):  # every scene has at least one phrase
        if not phrases:
            phrase = build_phrase(view, phenomenon, texts, tries=100)
            phrases += [] if phrase is None else [phrase]
    return layout, phrases


def phrases_about(
    objects: Sequence[SceneObject], settings: SceneRefSettings, split: str, rng: np.random.Generator, count: int
) -> list[ScenePhrase]:
    """Generate further phrases about a scene, all different.

    Args:
        objects: objects of the scene.
        settings: settings that the scene was generated with.
        split: split that the scene was generated for.
        rng: random generator.
        count: number of phrases.

    Returns:
        At most `count` phrases; fewer if the scene does not allow as many.
    """
    view, texts = View(objects, settings, split, rng), set[str]()
    built = [build_phrase(view, name, texts) for name in draw_phenomena(rng, settings.shares, count)]
    return [phrase for phrase in built if phrase is not None]


class SceneRefDataset(torch.utils.data.Dataset[Scene]):
    """Map-style dataset of `count` scenes; `dataset[i]` generates scene i at each access.

    Args:
        settings: content of the scenes.
        split: one of `SPLITS`.
        seed: seed of the benchmark, at least 0.
        count: number of scenes.

    Raises:
        ValueError: unknown split or negative count.
    """

    def __init__(self, settings: SceneRefSettings, split: str = "val", seed: int = 0, count: int = 1000) -> None:
        split_number(split)
        if count < 0:
            raise ValueError(f"count must not be negative; got {count}.")
        self.settings, self.split, self.seed, self.count = settings, split, seed, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Scene:
        if not 0 <= index < self.count:
            raise IndexError(f"index must be 0 to {self.count - 1}; got {index}.")
        return generate_scene(self.settings, self.split, self.seed, index)


class SceneRefStream(torch.utils.data.IterableDataset[Scene]):
    """Iterable dataset of the scenes start, start + 1, ..., endless or `count` in number, without repetition.

    With `num_workers` workers in a DataLoader, worker w generates the scenes start + w, start + w + num_workers, ...,
    so that each scene is generated once. To resume after n scenes, pass `start + n`.

    Args:
        settings: content of the scenes.
        split: one of `SPLITS`.
        seed: seed of the benchmark, at least 0.
        start: index of the first scene.
        count: number of scenes of all workers together; None for an endless dataset.

    Raises:
        ValueError: unknown split, or negative start or count.
    """

    def __init__(
        self, settings: SceneRefSettings, split: str = "train", seed: int = 0, start: int = 0, count: int | None = None
    ) -> None:
        split_number(split)
        if start < 0 or (count is not None and count < 0):
            raise ValueError(f"start and count must not be negative; got start {start}, count {count}.")
        self.settings, self.split, self.seed, self.start, self.count = settings, split, seed, start, count

    def __iter__(self) -> Iterator[Scene]:
        worker = torch.utils.data.get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        position = first
        while self.count is None or position < self.count:
            yield generate_scene(self.settings, self.split, self.seed, self.start + position)
            position += step


def blind_guess_scores(scenes: Iterable[Scene]) -> dict[str, float]:
    """Compute the mean IoU of phrase-blind baselines, in percent, over the phrases with a target.

    Returns:
        The score of each baseline ("everything", "all objects", "largest object", "central object"), and "best", the
        largest of them. All are 0 if no phrase has a target.
    """
    meter = BlindGuessMeter()
    for scene in scenes:
        meter.add(scene)
    return meter.scores()


class BlindGuessMeter:
    """Accumulate `blind_guess_scores` over scenes."""

    def __init__(self) -> None:
        self.sums = dict.fromkeys(("everything", "all objects", "largest object", "central object"), 0.0)
        self.phrases = 0

    def add(self, scene: Scene) -> None:
        """Add the phrases of a scene that have a target."""
        areas = scene.masks.sum(axis=(1, 2))
        height, width = scene.image.shape[:2]
        centres = np.array([item.centre for item in scene.objects])
        central = int(((centres - np.array([width / 2, height / 2])) ** 2).sum(axis=1).argmin())
        largest = int(areas.argmax())
        for phrase in scene.phrases:
            if not phrase.targets:
                continue
            target = float(areas[list(phrase.targets)].sum())  # the masks are disjoint
            self.phrases += 1
            self.sums["everything"] += target / (height * width)
            self.sums["all objects"] += target / float(areas.sum())
            for name, guess in (("largest object", largest), ("central object", central)):
                both = float(areas[guess]) if guess in phrase.targets else 0.0
                self.sums[name] += both / (target + float(areas[guess]) - both)

    def scores(self) -> dict[str, float]:
        """Return the scores of the scenes added so far, in percent."""
        scores = {name: 100 * value / max(1, self.phrases) for name, value in self.sums.items()}
        return {**scores, "best": max(scores.values())}
