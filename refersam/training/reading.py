"""Lessons in reading: what phrases say, learned on a few tokens of each picture.

Nearly all that a phrase costs in training is arithmetic on places of the picture that it does not speak of. Here a
picture is looked at once, as it is before a phrase is heard, and of its pyramid a few tokens are kept: some cells of
every object, more of a larger one, and some of what lies between. On these the text encoder, the context tokens and
the fusions learn what phrases mean, without the layers between the fusions, from what a drawn scene knows: which
objects are targets, which each description fits, and where what the phrase says beside them is so.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refersam.model.interactor import Interactor
from refersam.model.pyramid import PyramidGeometry
from refersam.model.refersam import ReferSamModel
from refersam.model.text_encoder import encode_text
from refersam.processor import ReferSamProcessor
from refersam.training.augmentation import FRAMED_BY, WORDING_NUMBERS, reword
from refersam.training.auxiliary import fusions_of, shares
from refersam.training.settings import PretrainingSettings
from refersam.training.signals import never, until_stopped
from refersam.training.sources import condition_at
from sceneref import Scene, ScenePhrase, generate_scene, phrases_about

KEPT_TOKENS = (56, 20, 8)
"""Tokens that are kept of a picture, of the strides 8, 16 and 32; all where it has fewer."""
CELLS_PER_OBJECT = (2, 1, 0)
"""Of these at least for each object, as far as there is room: those that it covers most of."""
OBJECTS_SHARE = 0.75
"""Share of the kept tokens of a level that objects may have. Beyond the least they are drawn among the cells that an
object covers half of, so that larger ones have more, as the whole model sees them: who counts has to count objects, not
cells. The others lie between objects."""
TARGETS, FIRST_MENTION, OTHER_MENTIONS, CONDITION = range(4)
"""What is told of a token, 1 or 0 each; -1 for a condition that is left open."""
_MASK_WEIGHT, _POINTING_WEIGHT = 4.0, 0.5


@dataclass(frozen=True)
class Page:
    """What is kept of a scene, with T tokens and n phrases.

    Attributes:
        features: (T, D) half-precision tokens of the pyramid before a phrase is heard.
        places: (T,) their indices in the pyramid.
        phrases: n phrases.
        labels: (n, 4, T) int8, see `TARGETS` and those after it.
    """

    features: Tensor
    places: Tensor
    phrases: tuple[str, ...]
    labels: Tensor


class ReadingLessons:
    """Drawn pictures as the model sees them, and what is said of them, in memory.

    Args:
        settings: how many, and what they are like.
        seed: of the scenes.
        model: whose image encoder sees them; not changed.
        processor: of the model.
        rank: of this process; each draws its own share.
        world_size: number of processes.
        is_stopping: asked before each picture.

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
        self.pages: list[Page] = []
        seeing = copy.deepcopy(model).eval()
        for index in until_stopped(range(rank, settings.pictures, world_size), is_stopping):
            scene = generate_scene(scenes, "train", seed, index)
            rng = np.random.default_rng([seed, index])
            phrases = phrases_about(scene.objects, scenes, "train", rng, settings.phrases_per_picture)
            if phrases:
                self.pages.append(page_of(scene, phrases, seeing, processor, rng))

    def batch(self, number: int, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Batch `number`: `size` phrases, each of a picture of the pool.

        Returns:
            Features (B, T, D), their places (B, T), token ids and attention mask (B, S), labels (B, 4, T).
        """
        rng = np.random.default_rng([*self.seed, number])
        pages = [self.pages[index] for index in rng.integers(len(self.pages), size=size)]
        chosen = [int(rng.integers(len(page.phrases))) for page in pages]
        numbers = rng.random((size, WORDING_NUMBERS))
        numbers[:, FRAMED_BY] = rng.random()  # all inside sentences or none: the short would be padded to the long
        phrases = [
            reword(page.phrases[index], self.settings, drawn)
            for page, index, drawn in zip(pages, chosen, numbers, strict=True)
        ]
        text = self.processor.encode_phrases(phrases)
        labels = torch.stack([page.labels[index] for page, index in zip(pages, chosen, strict=True)])
        features = torch.stack([page.features for page in pages]).float()
        places = torch.stack([page.places for page in pages])
        return features, places, text["input_ids"], text["attention_mask"], labels


@torch.inference_mode()
def page_of(
    scene: Scene,
    phrases: Sequence[ScenePhrase],
    model: ReferSamModel,
    processor: ReferSamProcessor,
    rng: np.random.Generator,
) -> Page:
    """See a picture, keep some of its tokens, and label them by what phrases say.

    Args:
        scene: of a size that is a multiple of 32.
        phrases: about it.
        model: in evaluation mode.
        processor: of the model.
        rng: chooses what is kept of the ground.
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
    return Page(image.pyramid[0, index].half().cpu(), index, texts, torch.from_numpy(labels))


def kept_tokens(level_sizes: Sequence[tuple[int, int]]) -> list[int]:
    """How many tokens are kept of each level of (height, width) cells."""
    return [min(kept, height * width) for kept, (height, width) in zip(KEPT_TOKENS, level_sizes, strict=True)]


def _kept_cells(cover: np.ndarray, kept: int, per_object: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """(cell, object or -1) of `kept` cells, by the share (k, cells) of each that objects cover."""
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
    others.sort(key=lambda cell: cover[:, cell].any())  # those that no object touches first
    return cells + [(cell, -1) for cell in others[: kept - len(cells)]]


def _labels(scene: Scene, phrase: ScenePhrase, owner: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """(4, T) int8 of tokens whose cells lie on the objects `owner` (-1 for none) and have these centres in pixels."""
    others = {index for mention in phrase.mentions[1:] for index in mention}
    sets = (phrase.targets, phrase.mentions[0], sorted(others))
    told = (np.isin(owner, list(indices)) for indices in sets)
    return np.stack([*told, condition_at(scene, phrase, owner, *centres.T)]).astype(np.int8)


class Reader(nn.Module):
    """What is taught, and linear heads that are thrown away afterwards.

    Args:
        taught: a model with an interactor, of which the text encoder, the context tokens, and the fusions with their
            positions are taught.
        image_size: side of the pictures that the tokens are of.
    """

    def __init__(self, taught: ReferSamModel, image_size: int) -> None:
        super().__init__()
        self.taught = taught
        self.image_size = image_size
        width = taught.config.vision_config.hidden_size
        self.heads = nn.ModuleList(nn.Linear(width, CONDITION + 1) for _ in fusions_of(self.interactor))

    @property
    def interactor(self) -> Interactor:
        """The taught model's."""
        return cast(Interactor, self.taught.interactor)

    def forward(self, features: Tensor, places: Tensor, ids: Tensor, mask: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Loss terms `targets`, `mentions`, `pointing`, `condition`, `total`; `phrases right`, a share.

        All are means over fusions but the last: of how many phrases the last fusion tells all tokens of targets, and no
        others, to be of one. Arguments are those of `ReadingLessons.batch`.
        """
        geometry = PyramidGeometry.of_image(self.image_size, self.image_size, features.device)
        positions = self.interactor.positions(geometry)[0][places]
        lengths = kept_tokens(geometry.level_sizes)
        text = encode_text(self.taught.text_encoder, ids, mask)
        context = self.interactor.context_tokens
        tokens = torch.cat([text, context.expand(len(text), -1, -1)], dim=1)
        token_mask = F.pad(mask.bool(), (0, len(context)), value=True)
        sets, condition = labels[:, :CONDITION].float(), labels[:, CONDITION]
        known = shares((condition >= 0).float())
        names = ("targets", "mentions", "pointing", "condition")
        terms = {name: features.new_zeros(()) for name in names}
        pyramid = features
        for fusion, head in zip(fusions_of(self.interactor), self.heads, strict=True):
            tokens, pyramid = fusion(tokens, token_mask, pyramid, positions, lengths)
            told = head(pyramid).float().transpose(1, 2)  # (B, 4, T)
            error = F.binary_cross_entropy_with_logits(told[:, :CONDITION], sets, reduction="none").mean(dim=(0, 2))
            terms["targets"] = terms["targets"] + error[TARGETS]
            terms["mentions"] = terms["mentions"] + error[FIRST_MENTION] + error[OTHER_MENTIONS]
            pointer = told[:, :CONDITION].log_softmax(dim=2)
            wanted = shares(sets.flatten(0, 1)).view_as(sets)
            terms["pointing"] = terms["pointing"] + F.kl_div(pointer, wanted, reduction="batchmean")
            each = F.binary_cross_entropy_with_logits(
                told[:, CONDITION], condition.clamp(min=0).float(), reduction="none"
            )
            terms["condition"] = terms["condition"] + (each * known).sum(dim=1).mean()
        terms = {name: value / len(self.heads) for name, value in terms.items()}
        terms["total"] = _MASK_WEIGHT * (terms["targets"] + terms["mentions"]) + terms["condition"]
        terms["total"] = terms["total"] + _POINTING_WEIGHT * terms["pointing"]
        terms["phrases right"] = ((told[:, TARGETS] > 0) == (sets[:, TARGETS] > 0)).all(dim=1).float().mean()
        return terms
