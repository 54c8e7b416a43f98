"""Names of weights: tables from the authors' ReferSAM and Meta's SAM to this package, strict both ways."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from refersam.errors import CheckpointError, first_of

# Their name -> ours. {i} and {j} stand for numbers, {p} for "weight" or "bias", {rest} for anything; a name must match
# exactly one line.
SAM_KEYS: tuple[tuple[str, str], ...] = (
    ("image_encoder.pos_embed", "sam.vision_encoder.pos_embed"),
    ("image_encoder.patch_embed.proj.{p}", "sam.vision_encoder.patch_embed.projection.{p}"),
    ("image_encoder.blocks.{i}.norm{j}.{p}", "sam.vision_encoder.layers.{i}.layer_norm{j}.{p}"),
    ("image_encoder.blocks.{i}.attn.{rest}", "sam.vision_encoder.layers.{i}.attn.{rest}"),
    ("image_encoder.blocks.{i}.mlp.lin{j}.{p}", "sam.vision_encoder.layers.{i}.mlp.lin{j}.{p}"),
    ("image_encoder.neck.0.weight", "sam.vision_encoder.neck.conv1.weight"),
    ("image_encoder.neck.1.{p}", "sam.vision_encoder.neck.layer_norm1.{p}"),
    ("image_encoder.neck.2.weight", "sam.vision_encoder.neck.conv2.weight"),
    ("image_encoder.neck.3.{p}", "sam.vision_encoder.neck.layer_norm2.{p}"),
    (
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
        "sam.prompt_encoder.shared_embedding.positional_embedding",
    ),
    ("prompt_encoder.point_embeddings.{i}.weight", "sam.prompt_encoder.point_embed.{i}.weight"),
    ("prompt_encoder.not_a_point_embed.weight", "sam.prompt_encoder.not_a_point_embed.weight"),
    ("prompt_encoder.no_mask_embed.weight", "sam.prompt_encoder.no_mask_embed.weight"),
    ("prompt_encoder.mask_downscaling.0.{p}", "sam.prompt_encoder.mask_embed.conv1.{p}"),
    ("prompt_encoder.mask_downscaling.1.{p}", "sam.prompt_encoder.mask_embed.layer_norm1.{p}"),
    ("prompt_encoder.mask_downscaling.3.{p}", "sam.prompt_encoder.mask_embed.conv2.{p}"),
    ("prompt_encoder.mask_downscaling.4.{p}", "sam.prompt_encoder.mask_embed.layer_norm2.{p}"),
    ("prompt_encoder.mask_downscaling.6.{p}", "sam.prompt_encoder.mask_embed.conv3.{p}"),
    ("mask_decoder.iou_token.weight", "sam.mask_decoder.iou_token.weight"),
    ("mask_decoder.mask_tokens.weight", "sam.mask_decoder.mask_tokens.weight"),
    ("mask_decoder.transformer.layers.{i}.norm{j}.{p}", "sam.mask_decoder.transformer.layers.{i}.layer_norm{j}.{p}"),
    (
        "mask_decoder.transformer.layers.{i}.self_attn.{rest}",
        "sam.mask_decoder.transformer.layers.{i}.self_attn.{rest}",
    ),
    (
        "mask_decoder.transformer.layers.{i}.cross_attn_{rest}",
        "sam.mask_decoder.transformer.layers.{i}.cross_attn_{rest}",
    ),
    ("mask_decoder.transformer.layers.{i}.mlp.{rest}", "sam.mask_decoder.transformer.layers.{i}.mlp.{rest}"),
    (
        "mask_decoder.transformer.final_attn_token_to_image.{rest}",
        "sam.mask_decoder.transformer.final_attn_token_to_image.{rest}",
    ),
    ("mask_decoder.transformer.norm_final_attn.{p}", "sam.mask_decoder.transformer.layer_norm_final_attn.{p}"),
    ("mask_decoder.output_upscaling.0.{p}", "sam.mask_decoder.upscale_conv1.{p}"),
    ("mask_decoder.output_upscaling.1.{p}", "sam.mask_decoder.upscale_layer_norm.{p}"),
    ("mask_decoder.output_upscaling.3.{p}", "sam.mask_decoder.upscale_conv2.{p}"),
    (
        "mask_decoder.output_hypernetworks_mlps.{i}.layers.0.{p}",
        "sam.mask_decoder.output_hypernetworks_mlps.{i}.proj_in.{p}",
    ),
    (
        "mask_decoder.output_hypernetworks_mlps.{i}.layers.1.{p}",
        "sam.mask_decoder.output_hypernetworks_mlps.{i}.layers.0.{p}",
    ),
    (
        "mask_decoder.output_hypernetworks_mlps.{i}.layers.2.{p}",
        "sam.mask_decoder.output_hypernetworks_mlps.{i}.proj_out.{p}",
    ),
    ("mask_decoder.iou_prediction_head.layers.0.{p}", "sam.mask_decoder.iou_prediction_head.proj_in.{p}"),
    ("mask_decoder.iou_prediction_head.layers.1.{p}", "sam.mask_decoder.iou_prediction_head.layers.0.{p}"),
    ("mask_decoder.iou_prediction_head.layers.2.{p}", "sam.mask_decoder.iou_prediction_head.proj_out.{p}"),
)
"""Meta's names of SAM's weights."""

# The authors' names of SAM's three parts.
_AUTHORS_SAM_PREFIXES = {
    "image_encoder.": "vl_adapter.vis_model.",
    "prompt_encoder.": "sam_prompt_encoder.",
    "mask_decoder.": "sam_mask_decoder.",
}

# A fusion stands in two places: once per group, and again in the last group's extra pairs.
_FUSION_KEYS: tuple[tuple[str, str], ...] = (
    ("gamma_l2v", "text_gate"),
    ("gamma_v2l", "pyramid_gate"),
    ("p2l_cross_attn.{rest}", "text_self_attention.{rest}"),
    ("l_norm2.{p}", "text_self_norm.{p}"),
    ("l2v_cross_attn.{rest}", "text_to_pyramid.{rest}"),
    ("l_norm1.{p}", "text_cross_norm.{p}"),
    ("prompt_mlp.fc1.{p}", "text_ffn.0.{p}"),
    ("prompt_mlp.fc2.{p}", "text_ffn.2.{p}"),
    ("l_norm3.{p}", "text_ffn_norm.{p}"),
    ("v2l_cross_attn.{rest}", "pyramid_to_text.{rest}"),
    ("v_norm1.{p}", "pyramid_cross_norm.{p}"),
    ("vis_mlp.fc1.{p}", "pyramid_ffn.0.{p}"),
    ("vis_mlp.fc2.{p}", "pyramid_ffn.2.{p}"),
    ("v_norm2.{p}", "pyramid_ffn_norm.{p}"),
)

_EXTRACTOR_KEYS: tuple[tuple[str, str], ...] = (
    ("attn.{rest}", "attention.{rest}"),
    ("value_norm.{p}", "value_norm.{p}"),
    ("query_norm.{p}", "output_norm.{p}"),
)


def _within(keys: Iterable[tuple[str, str]], theirs: str, ours: str) -> tuple[tuple[str, str], ...]:
    return tuple((theirs + their_key, ours + our_key) for their_key, our_key in keys)


_GROUP, _OUR_GROUP = "vl_adapter.interactions.{i}.", "interactor.interactions.{i}."

AUTHORS_KEYS: tuple[tuple[str, str], ...] = (
    *(
        (next(new + key[len(old) :] for old, new in _AUTHORS_SAM_PREFIXES.items() if key.startswith(old)), ours)
        for key, ours in SAM_KEYS
    ),
    ("text_encoder.{rest}", "text_encoder.{rest}"),
    ("vl_adapter.spm.stem.{i}.{p}", "interactor.spatial_prior.stem.{i}.{p}"),
    ("vl_adapter.spm.conv2.{i}.{p}", "interactor.spatial_prior.stages.0.{i}.{p}"),
    ("vl_adapter.spm.conv3.{i}.{p}", "interactor.spatial_prior.stages.1.{i}.{p}"),
    ("vl_adapter.spm.conv4.{i}.{p}", "interactor.spatial_prior.stages.2.{i}.{p}"),
    ("vl_adapter.spm.fc2.{p}", "interactor.spatial_prior.projections.0.{p}"),
    ("vl_adapter.spm.fc3.{p}", "interactor.spatial_prior.projections.1.{p}"),
    ("vl_adapter.spm.fc4.{p}", "interactor.spatial_prior.projections.2.{p}"),
    ("vl_adapter.level_embed", "interactor.positions.level_embedding"),
    ("vl_adapter.lang_prompts.weight", "interactor.context_tokens"),
    (_GROUP + "injector.gamma", _OUR_GROUP + "injector.gate"),
    (_GROUP + "injector.query_norm.{p}", _OUR_GROUP + "injector.query_norm.{p}"),
    (_GROUP + "injector.attn.{rest}", _OUR_GROUP + "injector.attention.{rest}"),
    *_within(_EXTRACTOR_KEYS, _GROUP + "extractor.", _OUR_GROUP + "extractor."),
    *_within(_EXTRACTOR_KEYS, _GROUP + "extra_extractors.{j}.", _OUR_GROUP + "extra_extractors.{j}."),
    *_within(_FUSION_KEYS, _GROUP + "vl_extractor.", _OUR_GROUP + "fusion."),
    *_within(_FUSION_KEYS, _GROUP + "extra_vl_extractors.{j}.", _OUR_GROUP + "extra_fusions.{j}."),
    ("vl_adapter.lang_proj.{i}.{p}", "interactor.text_projection.{i}.{p}"),
    ("vl_adapter.adapter_proj.{i}.{j}.{p}", "interactor.level_projections.{i}.{j}.{p}"),
    ("vl_adapter.c1_conv.weight", "interactor.mask_features.lateral.weight"),
    ("vl_adapter.c1_norm.{p}", "interactor.mask_features.lateral_norm.{p}"),
    ("vl_adapter.out_conv.0.weight", "interactor.mask_features.smooth.weight"),
    ("vl_adapter.out_conv.1.{p}", "interactor.mask_features.smooth_norm.{p}"),
    ("vl_adapter.out_conv.3.{p}", "interactor.mask_features.output.{p}"),
    ("vl_adapter.level_embed_prompter", "prompter.positions.level_embedding"),
    ("vl_adapter.sparse_prompts.weight", "prompter.sparse_tokens"),
    ("vl_adapter.prompt_pos.weight", "prompter.token_positions"),
    ("vl_adapter.prompt_blocks.{i}.p_self_attn.{rest}", "prompter.layers.{i}.self_attention.{rest}"),
    ("vl_adapter.prompt_blocks.{i}.norm1.{p}", "prompter.layers.{i}.self_norm.{p}"),
    ("vl_adapter.prompt_blocks.{i}.p2v_cross_attn.{rest}", "prompter.layers.{i}.pyramid_attention.{rest}"),
    ("vl_adapter.prompt_blocks.{i}.norm2.{p}", "prompter.layers.{i}.pyramid_norm.{p}"),
    ("vl_adapter.prompt_blocks.{i}.p2l_cross_attn.{rest}", "prompter.layers.{i}.text_attention.{rest}"),
    ("vl_adapter.prompt_blocks.{i}.norm3.{p}", "prompter.layers.{i}.text_norm.{p}"),
    ("vl_adapter.prompt_blocks.{i}.prompt_mlp.fc1.{p}", "prompter.layers.{i}.ffn.0.{p}"),
    ("vl_adapter.prompt_blocks.{i}.prompt_mlp.fc2.{p}", "prompter.layers.{i}.ffn.2.{p}"),
    ("vl_adapter.prompt_blocks.{i}.norm4.{p}", "prompter.layers.{i}.ffn_norm.{p}"),
    ("mask_embedding.{i}.{p}", "prompter.dense_embedding.{i}.{p}"),
    ("mask_scaling.{p}", "prompter.mask_scaling.{p}"),
    ("sparse_embedding.3.{p}", "prompter.sparse_norm.{p}"),
    ("sparse_embedding.{i}.{p}", "prompter.sparse_embedding.{i}.{p}"),
)
"""The authors' names of all of ReferSAM's weights. Of two lines that match, the first counts."""

_PLACEHOLDERS = {"{i}": r"(?P<i>\d+)", "{j}": r"(?P<j>\d+)", "{p}": r"(?P<p>weight|bias)", "{rest}": r"(?P<rest>.+)"}


def rename_keys(names: Iterable[str], table: Iterable[tuple[str, str]]) -> tuple[dict[str, str], list[str]]:
    """Translate names by a table such as `AUTHORS_KEYS`; return old name -> new name, and the names without a match."""
    rules = []
    for theirs, ours in table:
        pattern = re.escape(theirs)
        for placeholder, regex in _PLACEHOLDERS.items():
            pattern = pattern.replace(re.escape(placeholder), regex)
        rules.append((re.compile(pattern), ours))
    renamed, unknown = {}, []
    for name in names:
        for rule, ours in rules:
            match = rule.fullmatch(name)
            if match:
                renamed[name] = ours.format(**match.groupdict())
                break
        else:
            unknown.append(name)
    return renamed, unknown


def plain_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights without the "module." that distributed training puts before their names."""
    return {name.removeprefix("module."): tensor for name, tensor in weights.items()}


def authors_state_dict(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under the authors' names -> under ours.

    Accepts the "module." prefix of distributed training, the `position_ids` buffers of older text encoders and the
    `text_model.` of older CLIP names.

    Raises:
        CheckpointError: names that are not ReferSAM's.
    """
    cleaned = {
        name.replace("text_encoder.text_model.", "text_encoder."): tensor
        for name, tensor in plain_names(weights).items()
        if not name.endswith("embeddings.position_ids")
    }
    renamed, unknown = rename_keys(cleaned, AUTHORS_KEYS)
    if unknown:
        raise CheckpointError(
            f"{len(unknown)} of {len(cleaned)} names are not those of the authors' ReferSAM: {first_of(unknown)}."
        )
    # The authors keep the fusion's gates as (1, 1, n).
    return {
        renamed[name]: tensor.flatten() if renamed[name].endswith(("text_gate", "pyramid_gate")) else tensor
        for name, tensor in cleaned.items()
    }


def check_state_dict(expected: Mapping[str, Tensor], given: Mapping[str, Tensor], what: str) -> None:
    """Raise CheckpointError for all weights that are missing, unexpected or of another shape."""
    problems = []
    missing, unexpected = sorted(expected.keys() - given.keys()), sorted(given.keys() - expected.keys())
    if missing:
        problems.append(f"{len(missing)} missing ({first_of(missing)})")
    if unexpected:
        problems.append(f"{len(unexpected)} unexpected ({first_of(unexpected)})")
    shapes = [
        f"{name}: {tuple(given[name].shape)} where {tuple(tensor.shape)} is expected"
        for name, tensor in expected.items()
        if name in given and given[name].shape != tensor.shape
    ]
    if shapes:
        problems.append(f"{len(shapes)} of another shape ({first_of(shapes)})")
    if problems:
        raise CheckpointError(f"{what} does not fit this configuration: {'; '.join(problems)}.")
