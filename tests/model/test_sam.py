"""SAM's parts against transformers' model."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from transformers.models.sam.configuration_sam import SamConfig
from transformers.models.sam.modeling_sam import SamModel
from twins import as_array, randomise, relative_error

from refersam import ReferSamModel
from refersam.model.sam import Sam


@pytest.fixture
def sam(small_config: Callable) -> Sam:
    """Build SAM's parts with random weights of large variance."""
    return randomise(ReferSamModel(small_config()).sam, scale=0.2)


@pytest.fixture
def whole_sam(sam: Sam, small_config: Callable) -> SamModel:
    """Return transformers' SamModel with the same weights."""
    config = small_config()
    model = SamModel(
        SamConfig(
            vision_config=config.vision_config,
            prompt_encoder_config=config.prompt_encoder_config,
            mask_decoder_config=config.mask_decoder_config,
        )
    ).eval()
    matrix = sam.prompt_encoder.shared_embedding.positional_embedding
    weights = {**sam.state_dict(), "shared_image_embedding.positional_embedding": matrix}
    model.load_state_dict(weights, strict=True)
    return model


@torch.no_grad()
def test_sam_encoder_in_groups_equals_transformers(sam: Sam) -> None:
    """Patches, groups of layers and neck agree with SamVisionEncoder at its own size (windows and global layers)."""
    pixels = torch.randn(2, 3, 64, 64)
    patches = sam.embed_patches(pixels)
    for first, last in ((0, 0), (1, 2), (3, 3)):
        patches = sam.run_layers(patches, first, last)
    assert relative_error(sam.neck(patches), sam.vision_encoder(pixels).last_hidden_state) < 1e-5


@torch.no_grad()
def test_positions_are_resized_bilinearly_at_cell_centres(sam: Sam) -> None:
    """A linear ramp over the columns stays linear on twice as many columns, except at the border."""
    ramp = torch.arange(4.0).reshape(1, 1, 4, 1).expand(1, 4, 4, 48)
    sam.vision_encoder.pos_embed.copy_(ramp)
    nn.init.zeros_(sam.vision_encoder.patch_embed.projection.weight)
    nn.init.zeros_(sam.vision_encoder.patch_embed.projection.bias)
    wide = sam.embed_patches(torch.randn(1, 3, 64, 128))
    assert wide.shape == (1, 4, 8, 48)
    expected = torch.tensor([0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3])
    torch.testing.assert_close(wide[0, 2, :, 5], expected)


@torch.no_grad()
def test_fourier_positions_equal_transformers(sam: Sam, whole_sam: SamModel) -> None:
    """On a square grid against transformers, which supports no other; on other grids, each cell against the formula."""
    theirs = whole_sam.get_image_wide_positional_embeddings()  # (1, C, 4, 4)
    assert relative_error(sam.image_positions((4, 4), torch.float32)[0, 0], theirs[0].flatten(1).T) < 1e-5
    ours = sam.image_positions((2, 3), torch.float32)[0, 0]
    matrix = as_array(sam.prompt_encoder.shared_embedding.positional_embedding)
    angle = 2 * math.pi * np.array([2 * 2.5 / 3 - 1, 2 * 0.5 / 2 - 1]) @ matrix  # row 0, column 2
    np.testing.assert_allclose(as_array(ours[2]), np.concatenate([np.sin(angle), np.cos(angle)]), atol=1e-5)


@pytest.mark.parametrize("num_sparse", [0, 3])
@torch.no_grad()
def test_mask_decoder_equals_transformers(sam: Sam, whole_sam: SamModel, num_sparse: int) -> None:
    """Mask prompt and decoder agree with SAM's single mask and IoU, with and without sparse prompts."""
    image, sparse, mask = torch.randn(2, 32, 4, 4), torch.randn(2, num_sparse, 32), torch.randn(2, 1, 16, 16)
    dense = sam.embed_mask(mask)
    _, their_dense = whole_sam.prompt_encoder(None, None, None, mask)
    assert relative_error(dense, their_dense) < 1e-6
    logits, iou, score = sam.decode_mask(image, dense, sparse)
    decoded = whole_sam.mask_decoder(
        image_embeddings=image,
        image_positional_embeddings=whole_sam.get_image_wide_positional_embeddings().repeat(2, 1, 1, 1),
        sparse_prompt_embeddings=sparse.unsqueeze(1) if num_sparse else None,
        dense_prompt_embeddings=dense,
        multimask_output=False,
    )
    assert relative_error(logits, decoded[0][:, 0, 0]) < 1e-5
    assert relative_error(iou, decoded[1][:, 0, 0]) < 1e-5
    assert score is None


@torch.no_grad()
def test_no_dense_prompt_means_sams_no_mask_embedding(sam: Sam) -> None:
    """As SAM's prompt encoder without a mask."""
    image, sparse = torch.randn(1, 32, 4, 4), torch.randn(1, 2, 32)
    none = sam.decode_mask(image, None, sparse)[0]
    explicit = sam.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1).expand(1, -1, 4, 4)
    torch.testing.assert_close(none, sam.decode_mask(image, explicit, sparse)[0])
    assert (none - sam.decode_mask(image, torch.zeros(1, 32, 4, 4), sparse)[0]).abs().max() > 1e-3


@pytest.mark.parametrize("given", ["points", "box", "points and box"])
@torch.no_grad()
def test_clicks_and_boxes_equal_transformers(sam: Sam, given: str) -> None:
    """With padding, at the size of SAM's own input."""
    points, labels = 64 * torch.rand(2, 3, 2), torch.tensor([[1, 0, 1], [0, 1, -1]])
    boxes = torch.tensor([[3.0, 5, 40, 60], [0, 1, 20, 30]])
    own = [points if "points" in given else None, labels if "points" in given else None]
    box = boxes if "box" in given else None
    nested = [None if part is None else part.unsqueeze(1) for part in (*own, box)]
    theirs = sam.prompt_encoder(*nested, None)[0].squeeze(1)
    assert relative_error(sam.embed_prompts(*own, box, (64, 64)), theirs) < 1e-5


@torch.no_grad()
def test_clicks_scale_with_the_input(sam: Sam) -> None:
    """The centre of a cell has its position, whatever the size."""
    centre, labels = torch.tensor([[[39.5, 7.5]]]), torch.tensor([[1]])  # cell (row 0, column 2) of 32 x 48 pixels
    embedded = sam.embed_prompts(centre, labels, None, (32, 48))[0, 0] - sam.prompt_encoder.point_embed[1].weight[0]
    torch.testing.assert_close(embedded, sam.image_positions((2, 3), torch.float32)[0, 0, 2])
