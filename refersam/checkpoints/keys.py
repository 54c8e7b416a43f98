"""Weight names: strict mapping from the authors' ReferSAM and Meta's SAM to this package."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from refersam.errors import CheckpointError, first_of

Table = tuple[tuple[str, str], ...]
"""(original name, name in this package) pairs; {i} and {j} are numbers, {p} is "weight" or "bias", {rest} anything."""

_IMAGE_ENCODER_KEYS: Table = (
    ("pos_embed", "pos_embed"),
    ("patch_embed.proj.{p}", "patch_embed.projection.{p}"),
    ("blocks.{i}.norm{j}.{p}", "layers.{i}.layer_norm{j}.{p}"),
    ("blocks.{i}.attn.{rest}", "layers.{i}.attn.{rest}"),
    ("blocks.{i}.mlp.lin{j}.{p}", "layers.{i}.mlp.lin{j}.{p}"),
    ("neck.0.weight", "neck.conv1.weight"),
    ("neck.1.{p}", "neck.layer_norm1.{p}"),
    ("neck.2.weight", "neck.conv2.weight"),
    ("neck.3.{p}", "neck.layer_norm2.{p}"),
)
_PROMPT_ENCODER_KEYS: Table = (
    ("pe_layer.positional_encoding_gaussian_matrix", "shared_embedding.positional_embedding"),
    ("point_embeddings.{i}.weight", "point_embed.{i}.weight"),
    ("not_a_point_embed.weight", "not_a_point_embed.weight"),
    ("no_mask_embed.weight", "no_mask_embed.weight"),
    ("mask_downscaling.0.{p}", "mask_embed.conv1.{p}"),
    ("mask_downscaling.1.{p}", "mask_embed.layer_norm1.{p}"),
    ("mask_downscaling.3.{p}", "mask_embed.conv2.{p}"),
    ("mask_downscaling.4.{p}", "mask_embed.layer_norm2.{p}"),
    ("mask_downscaling.6.{p}", "mask_embed.conv3.{p}"),
)
_MASK_DECODER_KEYS: Table = (
    ("iou_token.weight", "iou_token.weight"),
    ("mask_tokens.weight", "mask_tokens.weight"),
    ("transformer.layers.{i}.norm{j}.{p}", "transformer.layers.{i}.layer_norm{j}.{p}"),
    ("transformer.layers.{i}.self_attn.{rest}", "transformer.layers.{i}.self_attn.{rest}"),
    ("transformer.layers.{i}.cross_attn_{rest}", "transformer.layers.{i}.cross_attn_{rest}"),
    ("transformer.layers.{i}.mlp.{rest}", "transformer.layers.{i}.mlp.{rest}"),
    ("transformer.final_attn_token_to_image.{rest}", "transformer.final_attn_token_to_image.{rest}"),
    ("transformer.norm_final_attn.{p}", "transformer.layer_norm_final_attn.{p}"),
    ("output_upscaling.0.{p}", "upscale_conv1.{p}"),
    ("output_upscaling.1.{p}", "upscale_layer_norm.{p}"),
    ("output_upscaling.3.{p}", "upscale_conv2.{p}"),
    ("output_hypernetworks_mlps.{i}.layers.0.{p}", "output_hypernetworks_mlps.{i}.proj_in.{p}"),
    ("output_hypernetworks_mlps.{i}.layers.1.{p}", "output_hypernetworks_mlps.{i}.layers.0.{p}"),
    ("output_hypernetworks_mlps.{i}.layers.2.{p}", "output_hypernetworks_mlps.{i}.proj_out.{p}"),
    ("iou_prediction_head.layers.0.{p}", "iou_prediction_head.proj_in.{p}"),
    ("iou_prediction_head.layers.1.{p}", "iou_prediction_head.layers.0.{p}"),
    ("iou_prediction_head.layers.2.{p}", "iou_prediction_head.proj_out.{p}"),
)


def _within(keys: Table, theirs: str, ours: str) -> Table:
    return tuple((theirs + their_key, ours + our_key) for their_key, our_key in keys)


SAM_KEYS: Table = (
    *_within(_IMAGE_ENCODER_KEYS, "image_encoder.", "sam.vision_encoder."),
    *_within(_PROMPT_ENCODER_KEYS, "prompt_encoder.", "sam.prompt_encoder."),
    *_within(_MASK_DECODER_KEYS, "mask_decoder.", "sam.mask_decoder."),
)
"""Meta's names of SAM's weights; each name matches exactly one row."""

# Fusions occur once per group, and again in the extra pairs of the last group.
_FUSION_KEYS: Table = (
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

_EXTRACTOR_KEYS: Table = (
    ("attn.{rest}", "attention.{rest}"),
    ("value_norm.{p}", "value_norm.{p}"),
    ("query_norm.{p}", "output_norm.{p}"),
)


_GROUP, _OUR_GROUP = "vl_adapter.interactions.{i}.", "interactor.interactions.{i}."

AUTHORS_KEYS: Table = (
    *_within(_IMAGE_ENCODER_KEYS, "vl_adapter.vis_model.", "sam.vision_encoder."),
    *_within(_PROMPT_ENCODER_KEYS, "sam_prompt_encoder.", "sam.prompt_encoder."),
    *_within(_MASK_DECODER_KEYS, "sam_mask_decoder.", "sam.mask_decoder."),
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
"""The authors' names of all ReferSAM weights; the first matching row counts."""

_PLACEHOLDERS = {"{i}": r"(?P<i>\d+)", "{j}": r"(?P<j>\d+)", "{p}": r"(?P<p>weight|bias)", "{rest}": r"(?P<rest>.+)"}


def rename_keys(names: Iterable[str], table: Iterable[tuple[str, str]]) -> tuple[dict[str, str], list[str]]:
    """Map names by a table such as `AUTHORS_KEYS`; return a dict from old to new names, and the unmatched names."""
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
    """Remove the name prefix "module." of distributed training."""
    return {name.removeprefix("module."): tensor for name, tensor in weights.items()}


def authors_state_dict(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename weights from the authors' names to the names of this package.

    Accepts the "module." prefix of distributed training, the `position_ids` buffers of older text encoders and the
    `text_model.` prefix of older CLIP names.

    Raises:
        CheckpointError: names are unknown.
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
    # The authors store the fusion gates as (1, 1, n).
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
