"""ReferSAM: picture and phrase in, the mask of exactly that out."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from refersam.config import PATCH_SIZE, ReferSamConfig
from refersam.hub import hub_options, raise_if_not_downloaded
from refersam.model.adapter import Injector
from refersam.model.deformable_attention import DeformableAttention, compass_offsets
from refersam.model.fusion import Fusion
from refersam.model.guided_filter import guided_upsampling
from refersam.model.interactor import ImageFeatures, Interactor
from refersam.model.plain_encoder import PlainEncoder
from refersam.model.prompter import Prompter, SentencePrompter
from refersam.model.pyramid import PyramidPositions
from refersam.model.sam import Sam
from refersam.model.text_encoder import build_text_encoder, encode_text, sentence_positions
from refersam.reprs import OneLineRepr

SIZE_MULTIPLE = 32
"""Height and width of the input must be multiples of this many pixels."""


@dataclass(repr=False)
class ReferSamOutput(OneLineRepr, ModelOutput):
    """What the model says of B (picture, phrase) pairs. The same type in training and evaluation.

    Attributes:
        mask_logits: (B, H, W) before the sigmoid; the mask is where they are >= 0.
        low_res_mask_logits: (B, H/4, W/4) the same at the decoder's own resolution.
        coarse_mask_logits: (B, H/4, W/4) the dense prompt, before SAM's decoder refined it; None without dense prompt.
        iou_scores: (B,) SAM's prediction of the mask's IoU; meaningful where `config.supervise_iou`.
        object_score_logits: (B,) that the phrase has a target, before the sigmoid; None without that head.
    """

    # ModelOutput wants defaults; the model fills all that may not be None.
    mask_logits: Tensor = None  # type: ignore[assignment]
    low_res_mask_logits: Tensor = None  # type: ignore[assignment]
    coarse_mask_logits: Tensor | None = None
    iou_scores: Tensor = None  # type: ignore[assignment]
    object_score_logits: Tensor | None = None


class ReferSamModel(PreTrainedModel):
    """Segment Anything with a Vision-Language Interactor and a Vision-Language Prompter (IEEE TCSVT 2025).

    `from_pretrained`, `save_pretrained` and `push_to_hub` are transformers'; `from_backbones` starts from the
    published weights of SAM and of a text encoder.
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
            },
            num_extra_fusions=config.num_extra_fusions,
            num_context_tokens=config.num_context_tokens,
            drop_path=config.drop_path,
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
        """What does not depend on the phrase, for `forward`: to ask several times about the same pictures.

        Args:
            pixel_values: (I, 3, H, W), RGB, normalised as the processor does; H and W multiples of 32.

        Raises:
            ValueError: another shape.
        """
        check_pictures(pixel_values)
        features: ImageFeatures = self.interactor.encode_image(self.sam, pixel_values)
        return replace(features, guide=pixel_values) if self.config.guided_filter_radius else features

    def forward(
        self,
        pixel_values: Tensor | None,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        image_features: ImageFeatures | None = None,
    ) -> ReferSamOutput:
        """Segment.

        Args:
            pixel_values: (I, 3, H, W), RGB, normalised as the processor does; H and W multiples of 32. None with
                image_features.
            input_ids: (B, S) token ids. B is I, or a multiple of it: then the first B/I phrases belong to the first
                picture, and so on, and what does not depend on the phrase is computed once per picture.
            attention_mask: (B, S), 1 at real tokens, 0 at padding; None for no padding.
            image_features: the pictures as `encode_image` gives them.

        Raises:
            ValueError: shapes that do not fit, neither pixel_values nor image_features, or both.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        if (pixel_values is None) == (image_features is None):
            raise ValueError("Either pixel_values or image_features must be given, not both or neither.")
        if pixel_values is not None:
            check_pictures(pixel_values)
            check_text(pixel_values.shape[0], input_ids, attention_mask)
            image = self.encode_image(pixel_values)
            image.asked_once = True
        elif image_features is not None:
            check_text(image_features.num_images, input_ids, attention_mask)
            image = image_features
        text_mask = attention_mask.bool()

        text = encode_text(self.text_encoder, input_ids, attention_mask)
        seen = self.interactor(self.sam, image, text, text_mask)
        sentence = sentence_positions(self.config.text_encoder_kind, attention_mask)
        prompts = self.prompter(seen.text, text_mask, sentence, seen.pyramid, seen.mask_features, image.geometry)
        dense_prompt = None if prompts.dense_prompt is None else self.sam.embed_mask(prompts.dense_prompt)
        low_res, iou, score = self.sam.decode_mask(seen.image_embedding, dense_prompt, prompts.sparse_prompts)
        return ReferSamOutput(
            mask_logits=self._upsample(low_res, image),
            low_res_mask_logits=low_res,
            coarse_mask_logits=prompts.coarse_mask_logits,
            iou_scores=iou,
            object_score_logits=score,
        )

    def _upsample(self, low_res: Tensor, image: ImageFeatures) -> Tensor:
        """(B, H/4, W/4) -> (B, H, W)."""
        if image.guide is not None:
            return guided_upsampling(
                low_res, image.guide, self.config.guided_filter_radius, self.config.guided_filter_epsilon
            )
        size = [side * PATCH_SIZE for side in image.geometry.grid_size]
        return F.interpolate(low_res.unsqueeze(1), size=size, mode="bilinear", align_corners=True).squeeze(1)

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

    @classmethod
    def from_backbones(cls, sam: str | os.PathLike, text: str | os.PathLike, **overrides: Any) -> ReferSamModel:
        """A model to be trained, that starts from published weights of SAM and of a text encoder.

        Args:
            sam: Hub id or folder in transformers' format ("facebook/sam-vit-base"), or one of Meta's `sam_vit_*.pth`.
            text: Hub id or folder of BERT or CLIP ("google-bert/bert-base-uncased", "openai/clip-vit-base-patch16").
            overrides: other fields of `ReferSamConfig`.

        Raises:
            CheckpointError: weights that are missing, unsafe or of another model.
            ValueError: sizes that do not fit together.
        """
        from refersam.backbones import model_from_backbones

        return model_from_backbones(sam, text, **overrides)

    def train(self, mode: bool = True) -> ReferSamModel:
        """Training mode; what is frozen stays so, and a frozen text encoder in evaluation mode, without dropout."""
        super().train(mode)
        self._freeze()  # here too, since loading makes every parameter trainable and ends with eval()
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
        """`_init_weights` keeps transformers' rules, so it is trusted with modules without weights of their own."""
        return False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialisation for training (transformers calls it for each module without loaded weights)."""
        std = self.config.initializer_range
        if isinstance(module, nn.Linear):
            init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d):
            fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
            init.normal_(module.weight, std=math.sqrt(2 / fan_out))
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm | nn.GroupNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=1.0)
        elif isinstance(module, nn.ConvTranspose2d):
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            init.zeros_(module.bias)
        elif isinstance(module, DeformableAttention):
            init.zeros_(module.sampling_offsets.weight)
            start = compass_offsets(module.num_heads, module.num_levels, module.num_points)
            init.copy_(module.sampling_offsets.bias, start)
            init.zeros_(module.attention_weights.weight)
            init.xavier_uniform_(module.value_proj.weight)
            init.xavier_uniform_(module.output_proj.weight)
        elif isinstance(module, PyramidPositions):
            init.normal_(module.level_embedding, std=1.0)
        elif isinstance(module, Injector):
            init.constant_(module.gate, self.config.injection_gate_init)
        elif isinstance(module, Fusion):
            init.constant_(module.text_gate, self.config.fusion_gate_init)
            init.constant_(module.pyramid_gate, self.config.fusion_gate_init)
        elif isinstance(module, Interactor):
            init.normal_(module.context_tokens, std=1.0)
        elif isinstance(module, Prompter):
            init.normal_(module.sparse_tokens, std=1.0)
            init.normal_(module.token_positions, std=1.0)
            if module.mask_scaling is not None:
                init.ones_(module.mask_scaling.weight)
        elif isinstance(module, Sam):
            self._init_sam(module)

    def _init_sam(self, sam: Sam) -> None:
        # SAM's own heads start as torch starts them; its Fourier matrix has unit deviation, as published.
        for part in (sam.mask_decoder, sam.object_score_head):
            for layer in part.modules() if part is not None else ():
                if isinstance(layer, nn.Linear):
                    init.kaiming_uniform_(layer.weight, a=math.sqrt(5))
        init.normal_(sam.prompt_encoder.shared_embedding.positional_embedding, std=1.0)
        init.normal_(sam.vision_encoder.pos_embed, std=0.02)


def check_pictures(pixel_values: Any) -> None:
    """(I, 3, H, W), sides multiples of 32.

    Raises:
        ValueError: another shape.
    """
    if pixel_values.ndim != 4 or pixel_values.shape[1] != 3:
        raise ValueError(f"pixel_values must be (B, 3, H, W), but is {tuple(pixel_values.shape)}.")
    if any(side == 0 or side % SIZE_MULTIPLE for side in pixel_values.shape[2:]):
        raise ValueError(
            f"Height and width of pixel_values must be multiples of {SIZE_MULTIPLE}, but are "
            f"{tuple(pixel_values.shape[2:])}: resize the picture (ReferSamProcessor does)."
        )


def check_text(num_pictures: int, input_ids: Tensor, attention_mask: Tensor) -> None:
    """(B, S) each, B a multiple of the pictures.

    Raises:
        ValueError: other shapes.
    """
    if input_ids.ndim != 2 or attention_mask.shape != input_ids.shape:
        raise ValueError(
            f"input_ids and attention_mask must both be (B, S), but are {tuple(input_ids.shape)} and "
            f"{tuple(attention_mask.shape)}."
        )
    num_phrases = input_ids.shape[0]
    if num_phrases == 0 or num_pictures == 0 or num_phrases % num_pictures:
        raise ValueError(
            f"The number of phrases must be a multiple of the number of pictures, but there are "
            f"{num_phrases} phrases and {num_pictures} pictures."
        )
