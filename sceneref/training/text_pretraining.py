"""Text pretraining on cached image tokens.

Most of the arithmetic that a phrase costs in training concerns parts of the image that the phrase does not mention.
Here each image is encoded once, without text, and a few tokens of its pyramid are cached: cells of every object, more
of larger ones, and cells between objects. On these tokens the text encoder, the context tokens and the fusions learn
what phrases mean, without the layers between the fusions. The labels come from the scene: which objects are targets,
which objects each description fits, and where the phrase's condition holds.
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
from refersam.training.signals import never, until_stopped
from refersam.training.trainee import LossTerms
from sceneref import Scene, ScenePhrase, generate_scene, phrases_about
from sceneref.training.labels import condition_at
from sceneref.training.objectives import fusions_of, normalised
from sceneref.training.pretraining import ScenePhase
from sceneref.training.rewording import NUMBERS, RewordingDraw, reword
from sceneref.training.settings import PretrainingSettings

KEPT_TOKENS = (56, 20, 8)
"""Tokens cached per image, of the strides 8, 16 and 32; all of them where a level has fewer."""
CELLS_PER_OBJECT = (2, 1, 0)
"""Least number of these per object, as far as there is room: the cells that it covers most of."""
OBJECTS_SHARE = 0.75
"""Share of a level's cached tokens for objects. Beyond the least number they are sampled from the cells that an object
covers half of, so that larger objects have more, as in the whole model: counting has to count objects, not cells. The
other tokens lie between objects."""
TARGETS, FIRST_MENTION, OTHER_MENTIONS, CONDITION = range(4)
"""Labels of a token, 1 or 0 each; -1 for a condition without a label."""
_MASK_WEIGHT, _POINTING_WEIGHT = 4.0, 0.5


@dataclass(frozen=True)
class CachedScene:
    """Cached tokens of a scene, T of them, with labels for n phrases.

    Attributes:
        features: (T, D) tokens of the pyramid before text conditioning, in half precision.
        places: (T,) their indices in the pyramid.
        phrases: n phrases.
        labels: (n, 4, T) int8, see `TARGETS` and those after it.
    """

    features: Tensor
    places: Tensor
    phrases: tuple[str, ...]
    labels: Tensor


@dataclass
class TokenBatch:
    """B phrases, each with the cached tokens of one image.

    Attributes:
        features: (B, T, D).
        places: (B, T) indices of the tokens in the pyramid.
        input_ids: (B, S).
        attention_mask: (B, S).
        labels: (B, 4, T).
        sample_ids: B names.
    """

    features: Tensor
    places: Tensor
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
        seed: of the scenes.
        model: that encodes the images; unchanged.
        processor: of the model.
        rank: of this process; each renders its own share.
        world_size: number of processes.
        is_stopping: asked before each image.

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
        for index in until_stopped(range(rank, settings.images, world_size), is_stopping):
            scene = generate_scene(scenes, "train", seed, index)
            rng = np.random.default_rng([seed, index])
            phrases = phrases_about(scene.objects, scenes, "train", rng, settings.phrases_per_image)
            if phrases:
                self.scenes.append(encode_scene(scene, phrases, encoder, processor, rng))

    def batch(self, number: int, size: int) -> TokenBatch:
        """Return phrases, each with an image of the pool.

        Args:
            number: of the batch, which decides everything about it.
            size: phrases.
        """
        rng = np.random.default_rng([*self.seed, number])
        positions = rng.integers(len(self.scenes), size=size).tolist()
        scenes = [self.scenes[position] for position in positions]
        chosen = [int(rng.integers(len(scene.phrases))) for scene in scenes]
        draws = map(RewordingDraw.of_numbers, rng.random((size, NUMBERS)))
        sentence = float(rng.random())  # for the whole batch: short phrases would be padded to the length of sentences
        phrases = [
            reword(scene.phrases[index], self.settings, replace(draw, sentence=sentence))
            for scene, index, draw in zip(scenes, chosen, draws, strict=True)
        ]
        text = self.processor.encode_phrases(phrases)
        return TokenBatch(
            features=torch.stack([scene.features for scene in scenes]).float(),
            places=torch.stack([scene.places for scene in scenes]),
            input_ids=text["input_ids"],
            attention_mask=text["attention_mask"],
            labels=torch.stack([scene.labels[index] for scene, index in zip(scenes, chosen, strict=True)]),
            sample_ids=tuple(f"scene {position} of the pool" for position in positions),
        )


@torch.inference_mode()
def encode_scene(
    scene: Scene,
    phrases: Sequence[ScenePhrase],
    model: ReferSamModel,
    processor: ReferSamProcessor,
    rng: np.random.Generator,
) -> CachedScene:
    """Encode an image, keep some tokens of its pyramid, and label them for each phrase.

    Args:
        scene: with sides that are multiples of 32.
        phrases: about the scene.
        model: in evaluation mode.
        processor: of the model.
        rng: chooses the tokens.
    """
    pixels = processor.image_processor.normalise(scene.image)[None].to(model.device)
    image = model.encode_image(pixels)
    masks = torch.from_numpy(scene.masks).float()
    places, owners, start = [], [], 0
    sizes = image.geometry.level_sizes
    for (height, width), kept, per_object in zip(sizes, kept_tokens(sizes), CELLS_PER_OBJECT, strict=True):
        cover = F.adaptive_avg_pool2d(masks, (height, width)).flatten(1)
        for place, owner in _kept_cells(cover.numpy(), kept, per_object, rng):
            places.append(start + place)
            owners.append(owner)
        start += height * width
    index, owner_of = torch.tensor(places), np.array(owners)
    centres = image.geometry.reference_points[index].cpu().numpy() * np.array(scene.image.shape[1::-1])
    labels = np.stack([_labels(scene, phrase, owner_of, centres) for phrase in phrases])
    texts = tuple(phrase.text for phrase in phrases)
    return CachedScene(image.pyramid[0, index].half().cpu(), index, texts, torch.from_numpy(labels))


def kept_tokens(level_sizes: Sequence[tuple[int, int]]) -> list[int]:
    """Return the number of tokens to keep of each level of (height, width) cells."""
    return [min(kept, height * width) for kept, (height, width) in zip(KEPT_TOKENS, level_sizes, strict=True)]


def _kept_cells(cover: np.ndarray, kept: int, per_object: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Choose `kept` cells by the share (k, cells) of each that objects cover; return (cell, object or -1) of each."""
    owner_of: dict[int, int] = {}
    for owner, share in enumerate(cover):
        for cell in np.argsort(-share, kind="stable")[:per_object]:
            if share[cell] > 0:
                owner_of.setdefault(int(cell), owner)
    if per_object:
        for owner, cell in rng.permutation(np.argwhere(cover >= 0.5)):
            if len(owner_of) >= OBJECTS_SHARE * kept:
                break
            owner_of.setdefault(int(cell), int(owner))
    cells = list(owner_of.items())[:kept]
    others = [int(cell) for cell in rng.permutation(cover.shape[1]) if cell not in owner_of]
    others.sort(key=lambda cell: cover[:, cell].any())  # cells that no object touches come first
    return cells + [(cell, -1) for cell in others[: kept - len(cells)]]


def _labels(scene: Scene, phrase: ScenePhrase, owner: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Return (4, T) int8 labels of tokens on the objects `owner` (-1 for none) with these centres in pixels."""
    others = {index for mention in phrase.mentions[1:] for index in mention}
    sets = (phrase.targets, phrase.mentions[0], sorted(others))
    members = (np.isin(owner, list(indices)) for indices in sets)
    return np.stack([*members, condition_at(scene, phrase, owner, *centres.T)]).astype(np.int8)


class TextTrainee(nn.Module):
    """What reads phrases, with linear heads, which are dropped after the phase.

    Args:
        trained: a model with an interactor. Its text encoder, context tokens, and fusions with their positions are
            trained.
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

        Losses are means over fusions. The accuracy is the share of phrases for which the last fusion classifies every
        token correctly as part of a target or not.
        """
        features, labels = batch.features, batch.labels
        geometry = PyramidGeometry.of_image(self.image_size, self.image_size, features.device)
        positions = self.interactor.positions(geometry)[0][batch.places]
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
        settings: of the phase.
        model: with an interactor; its weights are replaced at the end.
        processor: of the model.
        accelerator: devices and processes.
        seed: of the scenes and their order.
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
