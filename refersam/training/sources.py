"""Where training pictures come from: SceneRef, drawn one by one, or the passes over a data set."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from refersam.data.datasets import open_dataset
from refersam.data.sample import DrawnObjects, ReferringImage, ReferringSample
from refersam.errors import DataError
from refersam.training.augmentation import augment
from refersam.training.looks import looks_of
from refersam.training.settings import SettingsError, StageSettings, TrainSettings
from sceneref import Scene, ScenePhrase, SceneRefSettings, generate_scene

_AUGMENTATION, _ORDER, REVIEW = 1, 2, 3
"""Random streams of a run, beside the scenes'."""


class PictureSource(Protocol):
    """Pictures by number, each with at most `phrases_per_picture` phrases; number and settings decide all of it."""

    length: int | None
    """Pictures of one pass; None without end."""

    def load(self, number: int, stage: StageSettings, /) -> ReferringImage:
        """Picture `number` of the run.

        Raises:
            DataError: a picture or mask that cannot be read.
        """

    def phrases(self) -> Iterable[str]:
        """Text to train a tokenizer on."""


def open_source(settings: TrainSettings) -> PictureSource:
    """The training pictures of a run.

    Raises:
        DataError: no such data set, or something in it that cannot be used.
        SettingsError: a share of phrases without target that the data set cannot give.
    """
    data = settings.data
    if data.root is None:
        return SceneSource(settings)
    return DatasetSource(open_dataset(data.root, data.dataset, data.split, data.split_by), settings)


class SceneSource:
    """SceneRef's training split, drawn while training: no picture comes twice."""

    tokenizer_pictures = 1500

    def __init__(self, settings: TrainSettings) -> None:
        self.settings = settings
        self.length: int | None = None

    def load(self, number: int, stage: StageSettings) -> ReferringImage:
        """See `PictureSource`."""
        data = self.settings.data
        side = data.picture_sizes[number % len(data.picture_sizes)]
        scenes = stage.scenes(side, data.phrases_per_picture)
        try:
            scene = generate_scene(scenes, "train", self.settings.seed, number)
        except RuntimeError as error:
            raise DataError(f"Scene {number} cannot be drawn. {error}") from error
        picture = scene_to_referring_image(scene, f"scene_{number}")
        if self.settings.loss.needs_objects:
            picture = replace(picture, objects=drawn_objects(scene))
        return augment(picture, data.augment, _rng(self.settings, number))

    def phrases(self) -> Iterable[str]:
        """See `PictureSource`."""
        scenes = SceneRefSettings(width=64, height=64, phrases_per_scene=12, difficulty=0.0)
        for index in range(self.tokenizer_pictures):
            for phrase in generate_scene(scenes, "train", self.settings.seed, index).phrases:
                yield phrase.text


class DatasetSource:
    """Passes over a data set, each in a new order; every phrase comes once in each, some twice to fill up a picture.

    Args:
        samples: of the training split.
        settings: of the run.

    Raises:
        SettingsError: a share of phrases without target, of samples that all have one, or none.
    """

    def __init__(self, samples: Sequence[ReferringSample], settings: TrainSettings) -> None:
        self.samples, self.settings = samples, settings
        self.with_target = np.array([index for index, sample in enumerate(samples) if sample.has_target], dtype=int)
        self.without = np.array([index for index, sample in enumerate(samples) if not sample.has_target], dtype=int)
        share = settings.data.no_target_share
        if share is not None and not (self.with_target.size and (self.without.size or not share)):
            kind = "target" if self.with_target.size == 0 else "missing target"
            raise SettingsError(
                f"data.no_target_share is {share}, but no phrase of {settings.data.dataset}, {settings.data.split}, "
                f"has a {kind}: leave it out."
            )
        self._pass: tuple[int, list[tuple[int, ...]]] = (-1, [])
        first = self.order(0)
        self.length: int | None = len(first)

    def load(self, number: int, _stage: StageSettings) -> ReferringImage:
        """See `PictureSource`; the stage is SceneRef's."""
        length = self.length or 1
        # Where phrases are drawn anew, passes differ a little in length: all are made as long as the first.
        order = self.order(number // length)
        picture = ReferringImage.load([self.samples[index] for index in order[number % length % len(order)]])
        return augment(picture, self.settings.data.augment, _rng(self.settings, number))

    def phrases(self) -> Iterable[str]:
        """See `PictureSource`."""
        return (sample.phrase for sample in self.samples)

    def order(self, number: int) -> list[tuple[int, ...]]:
        """Pass `number`: for each picture shown the positions of its samples; the last pass asked for is kept."""
        if self._pass[0] != number:
            rng = np.random.default_rng([self.settings.seed, _ORDER, number])
            by_picture: dict[str, list[int]] = defaultdict(list)
            for index in rng.permutation(self._chosen(rng)).tolist():
                by_picture[self.samples[index].image.image_id].append(index)
            units = [part for indices in by_picture.values() for part in self._parts(indices)]
            self._pass = (number, [units[index] for index in rng.permutation(len(units))])
        return self._pass[1]

    def _chosen(self, rng: np.random.Generator) -> np.ndarray:
        """Positions of the samples in a pass: those without target so often that they have the wanted share."""
        share = self.settings.data.no_target_share
        if share is None:
            return np.arange(len(self.samples))
        wanted = round(self.with_target.size * share / (1 - share))
        rounds = [rng.permutation(self.without) for _ in range(-(-wanted // max(1, self.without.size)))]
        return np.concatenate([self.with_target, *rounds])[: self.with_target.size + wanted]

    def _parts(self, indices: list[int]) -> list[tuple[int, ...]]:
        """As few and as even parts as hold `phrases_per_picture` at most."""
        count = -(-len(indices) // self.settings.data.phrases_per_picture)
        return [tuple(part.tolist()) for part in np.array_split(np.array(indices), count)]


def _rng(settings: TrainSettings, number: int) -> np.random.Generator:
    return np.random.default_rng([settings.seed, _AUGMENTATION, number])


def scene_to_referring_image(scene: Scene, name: str) -> ReferringImage:
    """A scene as readers and evaluator have it."""
    return ReferringImage(
        image=scene.image,
        phrases=tuple(phrase.text for phrase in scene.phrases),
        masks=np.stack([scene.target_mask(phrase) for phrase in scene.phrases]),
        sample_ids=tuple(f"{name}_{index}" for index in range(len(scene.phrases))),
        tags=tuple(phrase.tags for phrase in scene.phrases),
    )


def drawn_objects(scene: Scene) -> DrawnObjects:
    """What the auxiliary losses learn from."""
    mentions = tuple(phrase.mentions for phrase in scene.phrases)
    conditions = np.stack([condition_map(scene, phrase) for phrase in scene.phrases])
    return DrawnObjects(scene.masks, looks_of(scene.objects).numpy(), mentions, conditions)


def condition_map(scene: Scene, phrase: ScenePhrase) -> np.ndarray:
    """(H, W) int8: where what a phrase says beside its descriptions is so (1), is not (0), or is left open (-1).

    A place has every pixel in it or not, but an object as a whole, by its centre. What a negation leaves is said of
    objects alone.
    """
    rows, columns = np.indices(scene.image.shape[:2]) + 0.5
    owner = np.full(scene.image.shape[:2], -1)
    for index, mask in enumerate(scene.masks):
        owner[mask] = index
    return condition_at(scene, phrase, owner, columns, rows)


def condition_at(scene: Scene, phrase: ScenePhrase, owner: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """`condition_map` at points alone.

    Args:
        scene: with the objects.
        phrase: about it.
        owner: of each point the object that it is on, -1 for none.
        x, y: where the points are, in pixels.

    Returns:
        int8, shaped as they are.
    """
    is_object = owner >= 0
    if phrase.place is not None:
        centres = np.array([item.centre for item in scene.objects])
        x, y = (np.where(is_object, centres[owner, axis], value) for axis, value in enumerate((x, y)))
        return phrase.place.holds(x, y)
    if phrase.spared is not None:
        return np.where(is_object, np.isin(owner, phrase.spared), -1).astype(np.int8)
    return np.full(owner.shape, -1, np.int8)
