"""ReferSAM: segment the object of an image that a phrase refers to."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from refersam.config import PATCH_SIZE, SIZE_MULTIPLE, ReferSamConfig
from refersam.hub import hub_options, raise_if_not_downloaded
from refersam.model.initialization import initialize
from refersam.model.interactor import ImageFeatures, Interactor
from refersam.model.plain_encoder import PlainEncoder
from refersam.model.prompter import Prompter, SentencePrompter
from refersam.model.sam import Sam
from refersam.model.text_encoder import build_text_encoder, encode_text, sentence_positions
from refersam.model.upsampler import STRIDE, BilinearUpsampler, GuidedUpsampler
from refersam.reprs import OneLineRepr


@dataclass(repr=False)
class ReferSamOutput(OneLineRepr, ModelOutput):
    """Output for B (image, phrase) pairs, of the same type in training and evaluation.

    Attributes:
        mask_logits: (B, H, W) before the sigmoid; the mask is where they are >= 0.
        low_res_mask_logits: (B, H/4, W/4) the same at the resolution of SAM's decoder.
        coarse_mask_logits: (B, H/4, W/4) the dense prompt, before SAM's decoder refines it; None without dense prompt.
        iou_scores: (B,) SAM's prediction of the IoU of the mask; meaningful with `config.supervise_iou`.
        object_score_logits: (B,) logits that the phrase has a target, before the sigmoid; None without that head.
    """

    # ModelOutput requires defaults; the model always sets the fields that may not be None.
    mask_logits: Tensor = None  # type: ignore[assignment]
    low_res_mask_logits: Tensor = None  # type: ignore[assignment]
    coarse_mask_logits: Tensor | None = None
    iou_scores: Tensor = None  # type: ignore[assignment]
    object_score_logits: Tensor | None = None


@dataclass(frozen=True, eq=False, repr=False)
class PhraseFeatures(OneLineRepr):
    """Input of SAM's decoder for B (image, phrase) pairs: with it, a click costs one pass of the decoder.

    Per pair, at C = 256 and 448 x 448 pixels, 0.85 MB in float32; the guide is shared by the pairs of an image.

    Attributes:
        image_embedding: (B, C, h, w) at stride 16, after text conditioning.
        sparse_prompts: (B, n, C).
        dense_prompt: (B, 1, H/4, W/4) scaled coarse mask logits; None without dense prompt.
        coarse_mask_logits: (B, H/4, W/4) for the loss; None without dense prompt.
        guide: (I, 3, H, W) images for upsamplers that use them, B a multiple of I; None for others.
    """

    image_embedding: Tensor
    sparse_prompts: Tensor
    dense_prompt: Tensor | None = None
    coarse_mask_logits: Tensor | None = None
    guide: Tensor | None = None

    def split(self, count: int) -> list[PhraseFeatures]:
        """Split into `count` parts of equal numbers of pairs, as views; `count` divides B, and I divides it or it I."""
        num_pairs, num_images = len(self.image_embedding), 0 if self.guide is None else len(self.guide)
        parts = []
        for index in range(count):
            fields = {
                name: value[index * num_pairs // count : (index + 1) * num_pairs // count]
                for name, value in vars(self).items()
                if value is not None and name != "guide"
            }
            if self.guide is not None:
                first = index * num_images // count
                fields["guide"] = self.guide[first : max(first + 1, (index + 1) * num_images // count)]
            parts.append(PhraseFeatures(**fields))
        return parts

    @staticmethod
    def concatenate(parts: Sequence[PhraseFeatures]) -> PhraseFeatures:
        """Join features of one model and image size, of the same numbers of pairs and images each."""
        if len(parts) == 1:
            return parts[0]
        columns = {name: [getattr(part, name) for part in parts] for name in vars(parts[0])}
        return PhraseFeatures(**{name: torch.cat(c) for name, c in columns.items() if c[0] is not None})


class ReferSamModel(PreTrainedModel):
    """Segment Anything with a Vision-Language Interactor and a Vision-Language Prompter (IEEE TCSVT 2025).

    `from_pretrained`, `save_pretrained` and `push_to_hub` are inherited from transformers. To start from the published
    weights of SAM and of a text encoder, use `refersam.model_from_backbones`.

    Args:
        config: sizes and switches.
    """

    config_class = ReferSamConfig
    config: ReferSamConfig
    base_model_prefix = "refersam"
    main_input_name = "pixel_values"
    _supports_sdpa = True
    _no_split_modules = ["VisionLayer", "Interaction"]  # noqa: RUF012 - transformers' own declaration

    def __init__(self, config: ReferSamConfig) -> None:
        super().__init__(config)
        self.text_encoder = build_text_encoder(config)
        self.sam = Sam(
            vision_config=config.vision_config,
            prompt_encoder_config=config.prompt_encoder_config,
            mask_decoder_config=config.mask_decoder_config,
            object_score_head=config.object_score_head,
        )
        self.interactor = self._build_interactor(config) if config.use_interactor else self._build_encoder(config)
        self.prompter = self._build_prompter(config) if config.use_prompter else SentencePrompter()
        self.upsampler: BilinearUpsampler | GuidedUpsampler = BilinearUpsampler()
        if config.guided_filter_radius:
            self.upsampler = GuidedUpsampler(config.guided_filter_radius, config.guided_filter_epsilon)
        self.post_init()
        self._freeze()

    @staticmethod
    def _build_interactor(config: ReferSamConfig) -> Interactor:
        width = config.vision_config.hidden_size
        return Interactor(
            hidden_size=width,
            text_size=config.text_config.hidden_size,
            prompt_size=config.prompt_hidden_size,
            layer_groups=config.layer_groups,
            prior_channels=config.spatial_prior_channels,
            adapter={
                "hidden_size": width,
                "num_heads": config.deformable_num_heads,
                "num_points": config.deformable_num_points,
                "value_ratio": config.deformable_value_ratio,
            },
            fusion={
                "text_size": config.text_config.hidden_size,
                "hidden_size": width,
                "attention_size": config.fusion_hidden_size,
                "num_heads": config.fusion_num_heads,
                "ffn_ratio": config.fusion_ffn_ratio,
                "gate_init": config.fusion_gate_init,
            },
            num_extra_fusions=config.num_extra_fusions,
            num_context_tokens=config.num_context_tokens,
            drop_path=config.drop_path,
            injection_gate_init=config.injection_gate_init,
        )

    @staticmethod
    def _build_encoder(config: ReferSamConfig) -> PlainEncoder:
        return PlainEncoder(
            hidden_size=config.vision_config.hidden_size,
            text_size=config.text_config.hidden_size,
            prompt_size=config.prompt_hidden_size,
            num_layers=config.vision_config.num_hidden_layers,
            drop_path=config.drop_path,
        )

    @staticmethod
    def _build_prompter(config: ReferSamConfig) -> Prompter:
        return Prompter(
            hidden_size=config.prompt_hidden_size,
            num_heads=config.prompter_num_heads,
            num_layers=config.num_prompter_layers,
            ffn_ratio=config.prompter_ffn_ratio,
            num_sparse_tokens=config.num_sparse_tokens,
            use_dense_prompt=config.use_dense_prompt,
        )

    def encode_image(self, pixel_values: Tensor) -> ImageFeatures:
        """Encode the text-independent image features once; pass them to `forward` for each phrase.

        Args:
            pixel_values: (I, 3, H, W), RGB, normalised as the processor does; H and W multiples of 32.

        Raises:
            ValueError: pixel_values has another shape.
        """
        check_images(pixel_values)
        features: ImageFeatures = self.interactor.encode_image(self.sam, pixel_values)
        return replace(features, guide=pixel_values) if self.upsampler.uses_guide else features

    def encode_phrases(
        self,
        pixel_values: Tensor | None,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        image_features: ImageFeatures | None = None,
    ) -> PhraseFeatures:
        """Condition images on phrases: everything before SAM's decoder; arguments and errors as in `forward`."""
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        images, num_images, guide = _images(pixel_values, image_features)
        check_text(num_images, input_ids, attention_mask)
        text_mask = attention_mask.bool()

        text = encode_text(self.text_encoder, input_ids, attention_mask)
        fused = self.interactor(self.sam, images, text, text_mask)
        sentence = sentence_positions(self.config.text_encoder_kind, attention_mask)
        prompts = self.prompter(fused.text, text_mask, sentence, fused.pyramid, fused.mask_features, fused.geometry)
        return PhraseFeatures(
            image_embedding=fused.image_embedding,
            sparse_prompts=prompts.sparse_prompts,
            dense_prompt=prompts.dense_prompt,
            coarse_mask_logits=prompts.coarse_mask_logits,
            guide=guide if self.upsampler.uses_guide else None,
        )

    def decode(
        self,
        features: PhraseFeatures,
        input_points: Tensor | None = None,
        input_labels: Tensor | None = None,
        input_boxes: Tensor | None = None,
        mask_prompt: Tensor | None = None,
    ) -> ReferSamOutput:
        """Run SAM's decoder on the prompts of phrases and users; arguments and errors as in `forward`."""
        sparse, mask = features.sparse_prompts, features.dense_prompt
        size = (PATCH_SIZE * features.image_embedding.shape[2], PATCH_SIZE * features.image_embedding.shape[3])
        check_prompts(sparse.shape[0], size, input_points, input_labels, input_boxes, mask_prompt)
        if input_points is not None or input_boxes is not None:
            clicks = self.sam.embed_prompts(input_points, input_labels, input_boxes, size)
            sparse = torch.cat([sparse, clicks.to(sparse.dtype)], dim=1)
        if mask_prompt is not None:
            mask = mask_prompt.unsqueeze(1).to(sparse.dtype)
        dense_prompt = None if mask is None else self.sam.embed_mask(mask)
        low_res, iou, score = self.sam.decode_mask(features.image_embedding, dense_prompt, sparse)
        return ReferSamOutput(
            mask_logits=self.upsampler(low_res, features.guide),
            low_res_mask_logits=low_res,
            coarse_mask_logits=features.coarse_mask_logits,
            iou_scores=iou,
            object_score_logits=score,
        )

    def forward(
        self,
        pixel_values: Tensor | None,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        image_features: ImageFeatures | None = None,
        input_points: Tensor | None = None,
        input_labels: Tensor | None = None,
        input_boxes: Tensor | None = None,
        mask_prompt: Tensor | None = None,
    ) -> ReferSamOutput:
        """Segment.

        Clicks, boxes and a previous mask enter the same pass of SAM's decoder as the prompts of the phrase. To add
        clicks later at the cost of the decoder alone, call `encode_phrases` once, and `decode` for each click.

        Args:
            pixel_values: (I, 3, H, W), RGB, normalised as the processor does; H and W multiples of 32. None with
                image_features.
            input_ids: (B, S) token ids. B is I or a multiple of it: then the first B/I phrases belong to the first
                image, and so on, and text-independent features are computed once per image.
            attention_mask: (B, S), 1 at real tokens, 0 at padding; None for no padding.
            image_features: features of the images from `encode_image`.
            input_points: (B, P, 2) clicks (x, y) in pixels of the model's input, a pixel's centre at its integer
                coordinates; None for no clicks.
            input_labels: (B, P) integers with input_points: 1 foreground, 0 background, -1 padding.
            input_boxes: (B, 4) left, top, right, bottom in pixels of the model's input, NaN for padding; None for no
                boxes.
            mask_prompt: (B, H/4, W/4) `low_res_mask_logits` of an earlier output, used as dense prompt instead of the
                coarse mask; None for the coarse mask.

        Raises:
            ValueError: shapes do not fit; neither pixel_values nor image_features is given, or both are.
        """
        features = self.encode_phrases(pixel_values, input_ids, attention_mask, image_features)
        return self.decode(features, input_points, input_labels, input_boxes, mask_prompt)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike | None, *args: Any, **kwargs: Any) -> Any:
        """Load from a folder or Hub id with the arguments of transformers' own; offline it fails at once.

        Raises:
            DownloadError: a Hub id that was never downloaded, while the Hub cannot be reached.
        """
        if pretrained_model_name_or_path is None:  # weights and configuration come as arguments
            return super().from_pretrained(None, *args, **kwargs)
        name = os.fspath(pretrained_model_name_or_path)
        if "local_files_only" not in kwargs:
            kwargs.update(hub_options(name))
        try:
            return super().from_pretrained(name, *args, **kwargs)
        except Exception as error:
            raise_if_not_downloaded(name, error, local_files_only=kwargs["local_files_only"])
            raise

    def train(self, mode: bool = True) -> ReferSamModel:
        """Set the training mode. Frozen parts stay frozen; a frozen text encoder runs without dropout."""
        super().train(mode)
        self._freeze()  # loading makes every parameter trainable, and ends with eval()
        if self.config.freeze_text_encoder:
            self.text_encoder.eval()
        return self

    def _freeze(self) -> None:
        self.sam.freeze_fixed_parameters()
        if self.config.freeze_text_encoder:
            self.text_encoder.requires_grad_(False)
        if self.config.freeze_image_encoder:
            self.sam.vision_encoder.requires_grad_(False)

    @classmethod
    def is_custom_code(cls) -> bool:
        """Return False: transformers may initialise modules without own parameters by `_init_weights`."""
        return False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise a module for training; transformers calls it if the module's weights are not loaded."""
        initialize(module, self.config.initializer_range)


def _images(
    pixel_values: Tensor | None, image_features: ImageFeatures | None
) -> tuple[Tensor | ImageFeatures, int, Tensor | None]:
    """Return the input of the interactor, the number of images, and the guide of the upsampler."""
    if pixel_values is not None and image_features is None:
        check_images(pixel_values)
        return pixel_values, pixel_values.shape[0], pixel_values
    if pixel_values is None and image_features is not None:
        return image_features, image_features.num_images, image_features.guide
    raise ValueError("Either pixel_values or image_features must be given, not both or neither.")


def check_images(pixel_values: Any) -> None:
    """Check that images are (I, 3, H, W), with sides that are multiples of 32.

    Raises:
        ValueError: another shape.
    """
    if pixel_values.ndim != 4 or pixel_values.shape[1] != 3:
        raise ValueError(f"pixel_values must be (B, 3, H, W), but is {tuple(pixel_values.shape)}.")
    if any(side == 0 or side % SIZE_MULTIPLE for side in pixel_values.shape[2:]):
        raise ValueError(
            f"Height and width of pixel_values must be multiples of {SIZE_MULTIPLE}, but are "
            f"{tuple(pixel_values.shape[2:])}: resize the image (ReferSamProcessor does)."
        )


def check_prompts(
    batch: int,
    size: tuple[int, int],
    points: Tensor | None,
    labels: Tensor | None,
    boxes: Tensor | None,
    mask_prompt: Tensor | None,
) -> None:
    """Check the shapes of clicks, boxes and previous masks for B phrases and an input of (H, W) pixels.

    Raises:
        ValueError: another shape, points without labels, or labels without points.
    """
    if (points is None) != (labels is None):
        raise ValueError("input_points and input_labels belong together: give both or neither.")
    count = 0 if points is None or points.ndim != 3 else points.shape[1]
    for name, value, shape in (
        ("input_points", points, (batch, count, 2)),
        ("input_labels", labels, (batch, count)),
        ("input_boxes", boxes, (batch, 4)),
        ("mask_prompt", mask_prompt, (batch, size[0] // STRIDE, size[1] // STRIDE)),
    ):
        if value is not None and tuple(value.shape) != shape:
            raise ValueError(f"{name} must be {shape}, but is {tuple(value.shape)}.")


def check_text(num_images: int, input_ids: Tensor, attention_mask: Tensor) -> None:
    """Check that token ids and mask are (B, S), with B a multiple of the number of images.

    Raises:
        ValueError: another shape.
    """
    if input_ids.ndim != 2 or attention_mask.shape != input_ids.shape:
        raise ValueError(
            f"input_ids and attention_mask must both be (B, S), but are {tuple(input_ids.shape)} and "
            f"{tuple(attention_mask.shape)}."
        )
    num_phrases = input_ids.shape[0]
    if num_phrases == 0 or num_images == 0 or num_phrases % num_images:
        raise ValueError(
            f"The number of phrases must be a multiple of the number of images, but there are "
            f"{num_phrases} phrases and {num_images} images."
        )
