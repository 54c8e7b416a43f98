"""Configuration of ReferSAM, with all sizes of the model as explicit fields."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from huggingface_hub.errors import StrictDataclassError
from transformers import BertConfig, CLIPTextConfig, PreTrainedConfig
from transformers.models.sam.configuration_sam import SamMaskDecoderConfig, SamPromptEncoderConfig, SamVisionConfig

from refersam.domain import check_domain
from refersam.errors import did_you_mean, shown
from refersam.fields import check_fields

TEXT_CONFIGS: dict[str, type[PreTrainedConfig]] = {"bert": BertConfig, "clip_text_model": CLIPTextConfig}
"""Text encoders by their transformers `model_type`."""

PRESETS = ("tiny", "base", "large", "huge")
TEXT_ENCODERS = ("bert", "clip")

PATCH_SIZE = 16
"""SAM's patch size in pixels, the middle one of the pyramid's strides 8, 16 and 32."""

SIZE_MULTIPLE = 32
"""Divisor of the height and width of the model input in pixels: the largest stride of the pyramid."""

MIN_COMPONENT_FRACTION = 0.01
"""Default of `drop_specks`: the largest value without lost target objects on SceneRef (docs/concepts.md, "Specks")."""


class ReferSamConfig(PreTrainedConfig):
    """Sizes and switches of a ReferSAM model.

    Create it with `ReferSamConfig.from_preset("base", text_encoder="bert")`, or from its fields:

    Args:
        vision_config: SAM's image encoder (`SamVisionConfig` or its dictionary).
        mask_decoder_config: SAM's two-way mask decoder; its `hidden_size` is the prompt width C.
        prompt_encoder_config: SAM's prompt encoder, which embeds coarse masks, clicks and boxes.
        text_config: text encoder, a `BertConfig` or `CLIPTextConfig` (or a dictionary with its `model_type`).
        freeze_text_encoder: whether the text encoder is frozen in training. None: frozen for CLIP, trainable for BERT,
            as in the paper.
        freeze_image_encoder: whether SAM's image encoder is frozen in training.
        layer_groups: first and last ViT layer (inclusive) of each group. The interactor injects before a group, and
            extracts and fuses after it. The groups must cover all layers in order.
        spatial_prior_channels: width n of the convolutional spatial prior at stride 4.
        deformable_num_heads: number of heads of the deformable attention in injectors and extractors.
        deformable_num_points: number of sampling points per head and level.
        deformable_value_ratio: width of the deformable attention's values, as a fraction of the ViT width.
        fusion_hidden_size: attention width of the fusion between text and pyramid.
        fusion_num_heads: number of heads of the fusion attention.
        fusion_ffn_ratio: hidden width of the fusion's feed-forward networks, as a multiple of each stream's width.
        num_extra_fusions: number of additional (extract, fuse) pairs after the last group.
        num_context_tokens: number of learned tokens appended to the text in the interactor; 0 for none.
        num_sparse_tokens: number of learned tokens that become SAM's sparse prompts; 0 for none.
        num_prompter_layers: number of prompter layers.
        prompter_num_heads: number of heads of the prompter's attention.
        prompter_ffn_ratio: hidden width of the prompter's feed-forward networks, as a multiple of C.
        injection_gate_init: initial value of the injectors' gates gamma (the authors: 1e-6, for a pretrained ViT).
        fusion_gate_init: initial value of the fusion's gates (the authors: 1).
        supervise_iou: whether SAM's predicted IoU is trained with the mask's true IoU and used as confidence. False in
            the authors' models, where the predicted IoU is not trained for phrases.
        object_score_head: whether a head on the decoder's IoU token predicts the probability of a target, as SAM 2's
            object score. False in the authors' models.
        use_interactor: whether the interactor is used. False (ablation): the image encoder has no text conditioning.
        use_prompter: whether the prompter is used. False (ablation): the sentence feature is SAM's only prompt.
        use_dense_prompt: whether the coarse mask is used as a dense prompt. False (ablation): there is no coarse mask.
        guided_filter_radius: radius of the guided filter for edge-aware upsampling of masks, in cells of stride 4. 0
            for bilinear upsampling, as in the authors' models.
        guided_filter_epsilon: regularisation of the guided filter, the squared contrast below which image edges have
            little effect, in units of the normalised image.
        drop_path: drop-path probability of the ViT's last layer in training; proportionally lower for earlier layers.
        domain: only image domain of the training data, such as 'synthetic scenes', used in warnings. None for a model
            of general images.
        supports_clicks: whether the decoder was trained with clicks and boxes in addition to the phrase. If False, the
            use of clicks logs a warning.

    Raises:
        ValueError: a field has a wrong type, or sizes are inconsistent.
    """

    model_type = "refersam"
    no_target_threshold: ClassVar[float] = 0.5
    min_component_fraction: ClassVar[float] = MIN_COMPONENT_FRACTION
    sub_configs: ClassVar[dict[str, Any]] = {
        "vision_config": SamVisionConfig,
        "prompt_encoder_config": SamPromptEncoderConfig,
        "mask_decoder_config": SamMaskDecoderConfig,
    }

    # Dictionaries, configurations or None as arguments; configurations after __post_init__.
    vision_config: Any = None
    prompt_encoder_config: Any = None
    mask_decoder_config: Any = None
    text_config: Any = None
    freeze_text_encoder: bool | None = None
    freeze_image_encoder: bool = False
    layer_groups: list[list[int]] = dataclasses.field(default_factory=lambda: [[0, 2], [3, 5], [6, 8], [9, 11]])
    spatial_prior_channels: int = 64
    deformable_num_heads: int = 12
    deformable_num_points: int = 4
    deformable_value_ratio: float = 0.5
    fusion_hidden_size: int = 768
    fusion_num_heads: int = 12
    fusion_ffn_ratio: float = 2.0
    num_extra_fusions: int = 2
    num_context_tokens: int = 16
    num_sparse_tokens: int = 4
    num_prompter_layers: int = 2
    prompter_num_heads: int = 8
    prompter_ffn_ratio: float = 4.0
    injection_gate_init: float = 1e-6
    fusion_gate_init: float = 1.0
    supervise_iou: bool = False
    object_score_head: bool = False
    use_interactor: bool = True
    use_prompter: bool = True
    use_dense_prompt: bool = True
    guided_filter_radius: int = 0
    guided_filter_epsilon: float = 0.02
    drop_path: float = 0.0
    domain: str | None = None
    supports_clicks: bool = False
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        own = {name: value for name, value in vars(self).items() if name in type(self).own_field_names()}
        for name, value in check_fields(ReferSamConfig, own).items():
            setattr(self, name, value)
        for name, kind in self.sub_configs.items():
            # SAM's two-way decoder was trained with torch's default epsilon; transformers' default differs.
            defaults = {"layer_norm_eps": 1e-5} if name == "mask_decoder_config" else {}
            setattr(self, name, _sub_config(name, getattr(self, name), kind, **defaults))
        self.text_config = _text_config(self.text_config)
        if self.freeze_text_encoder is None:
            self.freeze_text_encoder = self.text_encoder_kind == "clip"
        super().__post_init__(**kwargs)
        check_domain(self.domain)
        self._check_sizes()

    @property
    def text_encoder_kind(self) -> str:
        """Kind of the text encoder: 'bert' or 'clip'."""
        return "bert" if self.text_config.model_type == "bert" else "clip"

    @property
    def prompt_hidden_size(self) -> int:
        """SAM's prompt width C."""
        return self.mask_decoder_config.hidden_size

    def get_text_config(self, *_args: Any, **_kwargs: Any) -> PreTrainedConfig:
        """Return the text encoder's configuration (name required by transformers)."""
        return self.text_config

    def _check_sizes(self) -> None:
        vision, prompt_width = self.vision_config, self.prompt_hidden_size
        layers = [layer for first, last in self.layer_groups for layer in range(first, last + 1)]
        if layers != list(range(vision.num_hidden_layers)):
            raise ValueError(
                f"layer_groups must cover the {vision.num_hidden_layers} ViT layers in order, "
                f"as [[first, last], ...] with both ends included, but got {self.layer_groups}."
            )
        if vision.patch_size != PATCH_SIZE:
            raise ValueError(f"vision_config.patch_size must be {PATCH_SIZE}, but got {vision.patch_size}.")
        if vision.output_channels != prompt_width or self.prompt_encoder_config.hidden_size != prompt_width:
            raise ValueError(
                "vision_config.output_channels, prompt_encoder_config.hidden_size and mask_decoder_config.hidden_size "
                f"must be equal, but are {vision.output_channels}, {self.prompt_encoder_config.hidden_size} and "
                f"{prompt_width}."
            )
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"drop_path must be at least 0 and below 1, but is {self.drop_path}.")
        if not (self.guided_filter_radius >= 0 and 0 < self.guided_filter_epsilon < math.inf):
            raise ValueError(
                "guided_filter_radius must be 0 or more and guided_filter_epsilon finite and above 0, but they are "
                f"{self.guided_filter_radius} and {self.guided_filter_epsilon}."
            )
        value_width = self.deformable_value_ratio * vision.hidden_size
        for name, width, heads in (
            ("vision_config.hidden_size", vision.hidden_size, vision.num_attention_heads),
            ("deformable_value_ratio * vision_config.hidden_size", value_width, self.deformable_num_heads),
            ("fusion_hidden_size", self.fusion_hidden_size, self.fusion_num_heads),
            ("mask_decoder_config.hidden_size", prompt_width, self.prompter_num_heads),
        ):
            if width % heads:
                raise ValueError(f"{name} must be a multiple of its {heads} heads, but is {width}.")
        if vision.hidden_size % 4 or prompt_width % 8:
            raise ValueError(
                f"The ViT width must be a multiple of 4 and C of 8, but they are {vision.hidden_size}, {prompt_width}."
            )

    @classmethod
    def field_names(cls) -> list[str]:
        """Return the names of all fields, sorted."""
        return sorted(field.name for field in dataclasses.fields(cls))

    @classmethod
    def own_field_names(cls) -> list[str]:
        """Return the names of ReferSAM's own fields, without the common fields of `PreTrainedConfig`."""
        common = {field.name for field in dataclasses.fields(PreTrainedConfig)}
        return [field.name for field in dataclasses.fields(ReferSamConfig) if field.name not in common]

    @classmethod
    def from_preset(cls, name: str, text_encoder: str = "bert", **overrides: Any) -> ReferSamConfig:
        """Create the configuration of a preset.

        Args:
            name: 'tiny' (trained from scratch on SceneRef, with a tokenizer of its own), 'base', 'large' or 'huge' (SAM
                ViT-B, ViT-L, ViT-H with BERT-base or CLIP ViT-B/16's text model).
            text_encoder: 'bert' or 'clip'.
            overrides: values of other fields of this class.

        Raises:
            ValueError: the preset, text encoder or a field is unknown.
        """
        if name not in PRESETS:
            raise ValueError(f"Unknown preset {name!r}: choose one of {', '.join(PRESETS)}.")
        if text_encoder not in TEXT_ENCODERS:
            raise ValueError(f"Unknown text encoder {text_encoder!r}: choose one of {', '.join(TEXT_ENCODERS)}.")
        known = cls.field_names()
        for field in overrides:
            if field not in known:
                raise ValueError(f"Unknown field {field!r} of a configuration{did_you_mean(field, known) or '.'}")
        fields = _tiny_fields(text_encoder) if name == "tiny" else _published_fields(name, text_encoder)
        return cls(**{**fields, **overrides})


def sam_vision_config(
    hidden_size: int,
    num_hidden_layers: int,
    num_attention_heads: int,
    global_attn_indexes: list[int],
    image_size: int,
    window_size: int,
    output_channels: int,
) -> SamVisionConfig:
    """Create the configuration of SAM's image encoder, including the derived sizes."""
    return SamVisionConfig(
        hidden_size=hidden_size,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=num_attention_heads,
        global_attn_indexes=global_attn_indexes,
        image_size=image_size,
        window_size=window_size,
        output_channels=output_channels,
        num_pos_feats=output_channels // 2,
        # transformers' default of 1e-10 is for pretrained weights; from scratch, activations would vanish.
        initializer_range=0.02,
    )


def sam_fields(
    vision: SamVisionConfig, mlp_dim: int = 2048, iou_width: int | None = None, mask_channels: int = 16
) -> dict[str, Any]:
    """Return the fields of SAM's three parts; the prompt width is the output width of the vision encoder."""
    width = vision.output_channels
    return {
        "vision_config": vision,
        "prompt_encoder_config": {
            "hidden_size": width,
            "image_size": vision.image_size,
            "mask_input_channels": mask_channels,
        },
        "mask_decoder_config": {"hidden_size": width, "mlp_dim": mlp_dim, "iou_head_hidden_dim": iou_width or width},
    }


def _published_fields(name: str, text_encoder: str) -> dict[str, Any]:
    width, depth, heads, global_layers = {
        "base": (768, 12, 12, [2, 5, 8, 11]),
        "large": (1024, 24, 16, [5, 11, 17, 23]),
        "huge": (1280, 32, 16, [7, 15, 23, 31]),
    }[name]
    per_group = depth // 4
    # Defaults of the classes are BERT-base and the text model of CLIP ViT-B/16, except for CLIP's special tokens.
    text = BertConfig() if text_encoder == "bert" else CLIPTextConfig(bos_token_id=49406, eos_token_id=49407)
    return {
        "vision_config": sam_vision_config(width, depth, heads, global_layers, 1024, 14, 256),
        "text_config": text,
        "layer_groups": [[first, first + per_group - 1] for first in range(0, depth, per_group)],
        "deformable_num_heads": heads,
        "fusion_hidden_size": width,
        "fusion_num_heads": heads,
    }


def _tiny_fields(text_encoder: str) -> dict[str, Any]:
    width, heads = 128, 4
    text_sizes = {
        "vocab_size": 1024,
        "hidden_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 256,
        "max_position_embeddings": 64,
    }
    if text_encoder == "bert":
        # Without BERT's dropout of 0.1, which slows training from scratch on a small vocabulary.
        text: PreTrainedConfig = BertConfig(
            **text_sizes, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, pad_token_id=0
        )
    else:
        text = CLIPTextConfig(**text_sizes, pad_token_id=0, bos_token_id=2, eos_token_id=3)
    return {
        **sam_fields(sam_vision_config(width, 8, heads, [1, 3, 5, 7], 128, 4, 96), mlp_dim=256),
        "text_config": text,
        "freeze_text_encoder": False,
        "layer_groups": [[0, 1], [2, 3], [4, 5], [6, 7]],
        "spatial_prior_channels": 32,
        "deformable_num_heads": heads,
        "fusion_hidden_size": width,
        "fusion_num_heads": heads,
        "num_extra_fusions": 1,
        "injection_gate_init": 0.01,
        "supervise_iou": True,
        "object_score_head": True,
    }


def check_overrides(values: Mapping[str, Any]) -> dict[str, Any]:
    """Validate fields of a `ReferSamConfig` from a recipe, including nested ones; return them in their declared types.

    Raises:
        ValueError: a name is unknown, or a value has a wrong type.
    """
    checked = check_fields(ReferSamConfig, values)
    kinds: dict[str, type[PreTrainedConfig]] = {**ReferSamConfig.sub_configs, "text_config": BertConfig}
    for name, kind in kinds.items():
        part = checked.get(name)
        if part is None:
            continue
        _check_part(name, part, kind)
        if isinstance(part, dict):
            if name == "text_config":
                kind = TEXT_CONFIGS[_text_kind(part)]
            # Common fields of PreTrainedConfig are not sizes, and are passed on unchanged.
            common = {field.name for field in dataclasses.fields(PreTrainedConfig)} | {"model_type"}
            own = check_fields(kind, {key: value for key, value in part.items() if key not in common}, name)
            checked[name] = {**part, **own}
    return checked


def check_spelling(fields: Iterable[str]) -> None:
    """Validate the field names of a config.json; transformers would ignore misspelt ones.

    Raises:
        ValueError: an unknown name is similar to a field of ReferSAM. Other unknown names are accepted.
    """
    known = ReferSamConfig.own_field_names()
    everything = {*known, *ReferSamConfig().to_dict()}
    for name in fields:
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.85)
        if nearest and name not in everything:
            raise ValueError(f"unknown field {name}, did you mean {nearest[0]}?")


def _check_part(name: str, given: Any, kind: type[PreTrainedConfig]) -> None:
    if not isinstance(given, dict | PreTrainedConfig):
        raise ValueError(f"{name} should be a {kind.__name__} or a dictionary of its fields, but is {shown(given)}")


def _sub_config(name: str, given: Any, kind: type[PreTrainedConfig], **defaults: Any) -> PreTrainedConfig:
    if given is None:
        return kind(**defaults)
    _check_part(name, given, kind)
    return _build(name, kind, {**defaults, **given}) if isinstance(given, dict) else given


def _build(name: str, kind: type[PreTrainedConfig], fields: dict[str, Any]) -> PreTrainedConfig:
    """Create a part of the configuration; convert transformers' field errors to one sentence."""
    try:
        return kind(**fields)
    except StrictDataclassError as error:
        raise ValueError(f"{name}: {error.__cause__ or error}.") from error


def _text_config(given: Any) -> PreTrainedConfig:
    if given is None:
        return BertConfig()
    _check_part("text_config", given, BertConfig)
    if not isinstance(given, dict):
        if given.model_type not in TEXT_CONFIGS:
            raise ValueError(f"text_config must be one of {', '.join(TEXT_CONFIGS)}, but is {given.model_type!r}.")
        return given
    fields = {key: value for key, value in given.items() if key != "model_type"}
    return _build("text_config", TEXT_CONFIGS[_text_kind(given)], fields)


def _text_kind(given: Mapping[str, Any]) -> str:
    kind = given.get("model_type", "bert")
    if not isinstance(kind, str) or kind not in TEXT_CONFIGS:
        raise ValueError(f"text_config.model_type must be one of {', '.join(TEXT_CONFIGS)}, but is {kind!r}.")
    return kind
