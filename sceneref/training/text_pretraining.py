"""Text pretraining on cached image tokens.

Most of the computation for a phrase concerns parts of the image that the phrase does not mention. Here each image is
encoded once, without text, and a few tokens of its pyramid are cached: tokens on every object, more of them on larger
objects, and background tokens. The text encoder, the context tokens and the fusions are trained on these tokens,
without the layers between the fusions. The labels come from the scene: targets, mentioned objects, and the condition
that the phrase states.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import cast

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.nn import functional as F

from refersam.model.interactor import Interactor
from refersam.model.pyramid import PyramidGeometry
from refersam.model.refersam import ReferSamModel
from refersam.model.text_encoder import encode_text
from refersam.processor import ReferSamProcessor
from refersam.training.engine import Engine
from refersam.training.signals import never
from refersam.training.trainee import LossTerms
from sceneref import Scene, ScenePhrase, phrases_about
from sceneref.training.labels import condition_at
from sceneref.training.objectives import fusions_of, normalised
from sceneref.training.pretraining import ScenePhase, render_scenes
from sceneref.training.rewording import NUMBERS, RewordingDraw, reword
from sceneref.training.settings import PretrainingSettings

KEPT_TOKENS = (56, 20, 8)
"""Number of cached tokens per image at strides 8, 16 and 32; fewer if the level has fewer tokens."""
CELLS_PER_OBJECT = (2, 1, 0)
"""Number of tokens at strides 8, 16 and 32 that are cached first for each object: those it covers most."""
OBJECTS_SHARE = 0.75
"""Maximum share of object tokens among a level's cached tokens. Beyond `CELLS_PER_OBJECT`, object tokens are sampled
from the cells that objects cover at least half of. Larger objects thus have more tokens, as in the full pyramid. The
remaining tokens are background."""
TARGETS, FIRST_MENTION, OTHER_MENTIONS, CONDITION = range(4)
"""Labels of a token, each 1 or 0; -1 for a condition without label."""
_MASK_WEIGHT, _POINTING_WEIGHT = 4.0, 0.5


@dataclass(frozen=True)
class CachedScene:
    """T cached tokens of a scene, with labels for n phrases.

    Attributes:
        features: (T, D) tokens of the pyramid before text conditioning, in half precision.
        token_indices: (T,) indices of the tokens in the pyramid.
        phrases: n phrases.
        labels: (n, 4, T) int8 labels; the second axis is `TARGETS`, `FIRST_MENTION`, `OTHER_MENTIONS`, `CONDITION`.
    """

    features: Tensor
    token_indices: Tensor
    phrases: tuple[str, ...]
    labels: Tensor


@dataclass
class TokenBatch:
    """B phrases, each with the cached tokens of one image.

    Attributes:
        features: (B, T, D) tokens.
        token_indices: (B, T) indices of the tokens in the pyramid.
        input_ids: (B, S) token ids of the phrases.
        attention_mask: (B, S).
        labels: (B, 4, T), see `CachedScene`.
        sample_ids: names of the B images.
    """

    features: Tensor
    token_indices: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    sample_ids: tuple[str, ...]

    def to(self, device: torch.device) -> TokenBatch:
        """Return the batch on a device."""
        return TokenBatch(**{part.name: send_to_device(getattr(self, part.name), device) for part in fields(self)})


class CachedScenes:
    """Rendered and encoded images with phrases, in memory.

    Args:
        settings: number and content of the scenes.
        seed: seed of the scenes.
        model: model that encodes the images; not changed.
        processor: processor of the model.
        rank: rank of this process; each process renders different scenes.
        world_size: number of processes.
        is_stopping: called before each image; True abandons the rendering.

    Raises:
        Stopped: `is_stopping` returned True.
    """

    def __init__(
        self,
        settings: PretrainingSettings,
        seed: int,
        model: ReferSamModel,
        processor: ReferSamProcessor,
        rank: int = 0,
        world_size: int = 1,
        is_stopping: Callable[[], bool] = never,
    ) -> None:
        scenes = settings.scenes()
        self.settings, self.processor = settings, processor
        self.seed = [seed, world_size, rank]
        self.scenes: list[CachedScene] = []
        encoder = copy.deepcopy(model).eval()
        for index, scene in render_scenes(settings, seed, rank, world_size, is_stopping):
            rng = np.random.default_rng([seed, index])
            phrases = phrases_about(scene.objects, scenes, "train", rng, settings.phrases_per_image)
            if phrases:
                self.scenes.append(encode_scene(scene, phrases, encoder, processor, rng))

    def batch(self, number: int, size: int) -> TokenBatch:
        """Return a batch of phrases, each with its image.

        Args:
            number: index of the batch, from which all random numbers are derived.
            size: number of phrases.
        """
        rng = np.random.default_rng([*self.seed, number])
        positions = rng.integers(len(self.scenes), size=size).tolist()
        scenes = [self.scenes[position] for position in positions]
        chosen = [int(rng.integers(len(scene.phrases))) for scene in scenes]
        draws = map(RewordingDraw.of_numbers, rng.random((size, NUMBERS)))
        sentence = float(rng.random())  # one draw per batch, since short phrases would be padded to sentence length
        phrases = [
            reword(scene.phrases[index], self.settings, replace(draw, sentence=sentence))
            for scene, index, draw in zip(scenes, chosen, draws, strict=True)
        ]
        text = self.processor.encode_phrases(phrases)
        return TokenBatch(
            features=torch.stack([scene.features for scene in scenes]).float(),
            token_indices=torch.stack([scene.token_indices for scene in scenes]),
            input_ids=text["input_ids"],
            attention_mask=text["attention_mask"],
            labels=torch.stack([scene.labels[index] for scene, index in zip(scenes, chosen, strict=True)]),
            sample_ids=tuple(f"pretraining scene {position}" for position in positions),
        )


@torch.inference_mode()
def encode_scene(
    scene: Scene,
    phrases: Sequence[ScenePhrase],
    model: ReferSamModel,
    processor: ReferSamProcessor,
    rng: np.random.Generator,
) -> CachedScene:
    """Encode an image, select some tokens of its pyramid, and label them for each phrase.

    Args:
        scene: scene whose sides are multiples of 32.
        phrases: phrases about the scene.
        model: model in evaluation mode.
        processor: processor of the model.
        rng: random generator for selecting the tokens.
    """
    pixels = processor.image_processor.normalise(scene.image)[None].to(model.device)
    image = model.encode_image(pixels)
    masks = torch.from_numpy(scene.masks).float()
    token_indices, instances, start = [], [], 0
    sizes = image.geometry.level_sizes
    for (height, width), kept, per_object in zip(sizes, kept_tokens(sizes), CELLS_PER_OBJECT, strict=True):
        cover = F.adaptive_avg_pool2d(masks, (height, width)).flatten(1)
        for cell, instance in _kept_cells(cover.numpy(), kept, per_object, rng):
            token_indices.append(start + cell)
            instances.append(instance)
        start += height * width
    index, instance_of = torch.tensor(token_indices), np.array(instances)
    centres = image.geometry.reference_points[index].cpu().numpy() * np.array(scene.image.shape[1::-1])
    labels = np.stack([_labels(scene, phrase, instance_of, centres) for phrase in phrases])
    texts = tuple(phrase.text for phrase in phrases)
    return CachedScene(image.pyramid[0, index].half().cpu(), index, texts, torch.from_numpy(labels))


def kept_tokens(level_sizes: Sequence[tuple[int, int]]) -> list[int]:
    """Return the number of cached tokens of each level, given the (height, width) of the levels in cells."""
    return [min(kept, height * width) for kept, (height, width) in zip(KEPT_TOKENS, level_sizes, strict=True)]


def _kept_cells(cover: np.ndarray, kept: int, per_object: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Select the cells of a level to cache.

    Args:
        cover: (k, cells) share of each cell covered by each object.
        kept: number of cells to select.
        per_object: number of cells that are selected first for each object.
        rng: random generator.

    Returns:
        Index of each selected cell, with the index of its object, -1 for background.
    """
    instance_of: dict[int, int] = {}
    for instance, share in enumerate(cover):
        for cell in np.argsort(-share, kind="stable")[:per_object]:
            if share[cell] > 0:
                instance_of.setdefault(int(cell), instance)
    if per_object:
        for instance, cell in rng.permutation(np.argwhere(cover >= 0.5)):
            if len(instance_of) >= OBJECTS_SHARE * kept:
                break
            instance_of.setdefault(int(cell), int(instance))
    cells = list(instance_of.items())[:kept]
    others = [int(cell) for cell in rng.permutation(cover.shape[1]) if cell not in instance_of]
    others.sort(key=lambda cell: cover[:, cell].any())  # cells without any object first
    return cells + [(cell, -1) for cell in others[: kept - len(cells)]]


def _labels(scene: Scene, phrase: ScenePhrase, instances: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Return the (4, T) int8 labels of T tokens.

    Args:
        scene: the scene.
        phrase: a phrase about the scene.
        instances: (T,) index of the object at each token, -1 for background.
        centres: (T, 2) centres (x, y) of the tokens in pixels.
    """
    others = {index for mention in phrase.mentions[1:] for index in mention}
    sets = (phrase.targets, phrase.mentions[0], sorted(others))
    members = (np.isin(instances, list(indices)) for indices in sets)
    return np.stack([*members, condition_at(scene, phrase, instances, *centres.T)]).astype(np.int8)


class TextTrainee(nn.Module):
    """The text-dependent parts of a model with linear heads, which are discarded after the phase.

    Args:
        trained: model with an interactor. Its text encoder, context tokens, fusions and pyramid positions are trained.
        image_size: side of the encoded images in pixels.
    """

    def __init__(self, trained: ReferSamModel, image_size: int) -> None:
        super().__init__()
        self.trained = trained
        self.image_size = image_size
        width = trained.config.vision_config.hidden_size
        self.heads = nn.ModuleList(nn.Linear(width, CONDITION + 1) for _ in fusions_of(self.interactor))

    @property
    def interactor(self) -> Interactor:
        """The interactor of the trained model."""
        return cast(Interactor, self.trained.interactor)

    def forward(self, batch: TokenBatch) -> LossTerms:
        """Compute the terms `targets`, `mentions`, `pointing`, `condition`, `total`, and `phrase accuracy`.

        Losses are means over fusions. The accuracy is the share of phrases for which the head after the last fusion
        classifies all tokens correctly as target or non-target.
        """
        features, labels = batch.features, batch.labels
        geometry = PyramidGeometry.of_image(self.image_size, self.image_size, features.device)
        positions = self.interactor.positions(geometry)[0][batch.token_indices]
        lengths = kept_tokens(geometry.level_sizes)
        text = encode_text(self.trained.text_encoder, batch.input_ids, batch.attention_mask)
        context = self.interactor.context_tokens
        tokens = torch.cat([text, context.expand(len(text), -1, -1)], dim=1)
        token_mask = F.pad(batch.attention_mask.bool(), (0, len(context)), value=True)
        sets, condition = labels[:, :CONDITION].float(), labels[:, CONDITION]
        known = normalised((condition >= 0).float())
        names = ("targets", "mentions", "pointing", "condition")
        terms = {name: features.new_zeros(()) for name in names}
        pyramid = features
        for fusion, head in zip(fusions_of(self.interactor), self.heads, strict=True):
            tokens, pyramid = fusion(tokens, token_mask, pyramid, positions, lengths)
            predicted = head(pyramid).float().transpose(1, 2)  # (B, 4, T)
            errors = F.binary_cross_entropy_with_logits(predicted[:, :CONDITION], sets, reduction="none")
            error = errors.mean(dim=(0, 2))
            terms["targets"] = terms["targets"] + error[TARGETS]
            terms["mentions"] = terms["mentions"] + error[FIRST_MENTION] + error[OTHER_MENTIONS]
            pointer = predicted[:, :CONDITION].log_softmax(dim=2)
            wanted = normalised(sets.flatten(0, 1)).view_as(sets)
            terms["pointing"] = terms["pointing"] + F.kl_div(pointer, wanted, reduction="batchmean")
            each = F.binary_cross_entropy_with_logits(
                predicted[:, CONDITION], condition.clamp(min=0).float(), reduction="none"
            )
            terms["condition"] = terms["condition"] + (each * known).sum(dim=1).mean()
        terms = {name: value / len(self.heads) for name, value in terms.items()}
        terms["total"] = _MASK_WEIGHT * (terms["targets"] + terms["mentions"]) + terms["condition"]
        terms["total"] = terms["total"] + _POINTING_WEIGHT * terms["pointing"]
        terms["phrase accuracy"] = ((predicted[:, TARGETS] > 0) == (sets[:, TARGETS] > 0)).all(dim=1).float().mean()
        return LossTerms(terms)


class TextPhase(ScenePhase):
    """Pretraining of text encoder, context tokens and fusions on cached image tokens.

    Args:
        settings: settings of the phase.
        model: model with an interactor; its weights are replaced at the end.
        processor: processor of the model.
        accelerator: devices and processes.
        seed: seed of the scenes and their order.
        max_skipped: see `StepGuard`.
    """

    def __init__(
        self,
        settings: PretrainingSettings,
        model: ReferSamModel,
        processor: ReferSamProcessor,
        accelerator: Accelerator,
        seed: int,
        max_skipped: int,
    ) -> None:
        super().__init__(settings, model, accelerator, seed, max_skipped)
        self.processor = processor
        self.scenes: CachedScenes

    def build_trainee(self) -> TextTrainee:
        """See `ScenePhase`."""
        return TextTrainee(copy.deepcopy(self.model), self.settings.image_size)

    def prepare(self, is_stopping: Callable[[], bool]) -> None:
        """Render and encode the scenes; see `Phase`."""
        seed, rank, world_size = self.process
        self.scenes = CachedScenes(self.settings, seed, self.model, self.processor, rank, world_size, is_stopping)

    def batch(self, step: int) -> TokenBatch:
        """See `Phase`."""
        batch = self.scenes.batch(step, self.settings.batch_size)
        self.seed_step(step)
        return batch

    def finish(self, engine: Engine) -> None:
        """See `Phase`."""
        self.model.load_state_dict(cast(TextTrainee, engine.plain_trainee).trained.state_dict())
