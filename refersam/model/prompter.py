"""Vision-Language Prompter (VLP): computes SAM's dense and sparse prompts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import initialization as init

from refersam.model.attention import Attention, LevelAttention
from refersam.model.fusion import FeedForward
from refersam.model.pyramid import PyramidGeometry, PyramidPositions, map_to_tokens

NORM_EPS = 1e-6


@dataclass
class PrompterOutput:
    """Prompts for SAM's mask decoder.

    Attributes:
        tokens: (B, 1 + n, C) the dense token and n sparse tokens after the last layer.
        coarse_mask_logits: (B, H/4, W/4) logits of the dense prompt, for the loss; None without dense prompt.
        dense_prompt: (B, 1, H/4, W/4) the same, scaled for SAM's mask downscaling; None without dense prompt.
        sparse_prompts: (B, n, C).
    """

    tokens: Tensor
    coarse_mask_logits: Tensor | None
    dense_prompt: Tensor | None
    sparse_prompts: Tensor


class PrompterLayer(nn.Module):
    """Self-attention, attention to the pyramid by level, attention to the text, feed-forward; all post-norm."""

    def __init__(self, *, hidden_size: int, num_heads: int, ffn_ratio: float) -> None:
        super().__init__()
        sizes = {"query_size": hidden_size, "key_size": hidden_size, "hidden_size": hidden_size}
        self.self_attention = Attention(**sizes, num_heads=num_heads)
        self.self_norm = nn.LayerNorm(hidden_size, eps=NORM_EPS)
        self.pyramid_attention = LevelAttention(**sizes, num_heads=num_heads)
        self.pyramid_norm = nn.LayerNorm(hidden_size, eps=NORM_EPS)
        self.text_attention = Attention(**sizes, num_heads=num_heads)
        self.text_norm = nn.LayerNorm(hidden_size, eps=NORM_EPS)
        self.ffn = FeedForward(hidden_size=hidden_size, inner_size=int(ffn_ratio * hidden_size))
        self.ffn_norm = nn.LayerNorm(hidden_size, eps=NORM_EPS)

    def forward(
        self,
        tokens: Tensor,
        token_positions: Tensor,
        pyramid: Tensor,
        pyramid_positions: Tensor,
        level_lengths: list[int],
        text: Tensor,
        text_mask: Tensor,
    ) -> Tensor:
        """Update the (B, 1 + n, C) prompt tokens; the other arguments are as in `Prompter.forward`."""
        query = tokens + token_positions
        tokens = self.self_norm(tokens + self.self_attention(query, query, tokens))
        seen = self.pyramid_attention(tokens + token_positions, pyramid + pyramid_positions, pyramid, level_lengths)
        tokens = self.pyramid_norm(tokens + seen)
        tokens = self.text_norm(tokens + self.text_attention(tokens + token_positions, text, text, text_mask))
        return self.ffn_norm(tokens + self.ffn(tokens))


class Prompter(nn.Module):
    """See `ReferSamConfig` for the sizes.

    Args:
        hidden_size: SAM's prompt width C.
        num_heads: heads of each attention.
        num_layers: number of layers.
        ffn_ratio: hidden width of the feed-forward networks, as a multiple of C.
        num_sparse_tokens: number n of learned tokens that become sparse prompts.
        use_dense_prompt: compute a dense prompt from the dense token.
    """

    def __init__(
        self,
        *,
        hidden_size: int,
        num_heads: int,
        num_layers: int,
        ffn_ratio: float,
        num_sparse_tokens: int,
        use_dense_prompt: bool,
    ) -> None:
        super().__init__()
        self.sparse_tokens = nn.Parameter(torch.empty(num_sparse_tokens, hidden_size))
        self.token_positions = nn.Parameter(torch.empty(1 + num_sparse_tokens, hidden_size))
        self.positions = PyramidPositions(hidden_size=hidden_size)
        self.layers = nn.ModuleList(
            PrompterLayer(hidden_size=hidden_size, num_heads=num_heads, ffn_ratio=ffn_ratio) for _ in range(num_layers)
        )
        self.dense_embedding: nn.Module | None = None
        self.mask_scaling: nn.Conv2d | None = None
        if use_dense_prompt:
            self.dense_embedding = FeedForward(hidden_size=hidden_size, inner_size=hidden_size)
            self.mask_scaling = nn.Conv2d(1, 1, kernel_size=1)
        self.sparse_embedding = FeedForward(hidden_size=hidden_size, inner_size=hidden_size)
        self.sparse_norm = nn.LayerNorm(hidden_size, eps=NORM_EPS)

    def reset_parameters(self) -> None:
        """Initialise tokens, positions, and the scale of the dense prompt."""
        init.normal_(self.sparse_tokens, std=1.0)
        init.normal_(self.token_positions, std=1.0)
        if self.mask_scaling is not None:
            init.ones_(self.mask_scaling.weight)

    def forward(
        self,
        text: Tensor,
        text_mask: Tensor,
        sentence_position: Tensor,
        pyramid: Tensor,
        mask_features: Tensor,
        geometry: PyramidGeometry,
    ) -> PrompterOutput:
        """Compute the prompts.

        Args:
            text: (B, S, C) projected text.
            text_mask: (B, S) boolean.
            sentence_position: (B,) positions of the sentence tokens.
            pyramid: (B, L, C) projected pyramid.
            mask_features: (B, C, H/4, W/4).
            geometry: geometry of the image size.
        """
        batch = text.shape[0]
        # No gradient through the seed, as in the authors' model: it reaches the text through the attention to the text.
        seed = text.detach()[torch.arange(batch, device=text.device), sentence_position].unsqueeze(1)
        tokens = torch.cat([seed, self.sparse_tokens.expand(batch, -1, -1)], dim=1)
        positions = self.positions(geometry)
        for layer in self.layers:
            tokens = layer(tokens, self.token_positions, pyramid, positions, geometry.level_lengths, text, text_mask)
        sparse = self.sparse_norm(self.sparse_embedding(tokens[:, 1:]))
        if self.dense_embedding is None or self.mask_scaling is None:
            return PrompterOutput(tokens, coarse_mask_logits=None, dense_prompt=None, sparse_prompts=sparse)
        dense = self.dense_embedding(tokens[:, :1])  # (B, 1, C)
        coarse = (map_to_tokens(mask_features) @ dense.transpose(1, 2)).squeeze(2)  # (B, H/4 * W/4)
        coarse = coarse.unflatten(1, mask_features.shape[2:]).unsqueeze(1)  # (B, 1, H/4, W/4)
        return PrompterOutput(
            tokens=tokens,
            coarse_mask_logits=coarse.squeeze(1),
            dense_prompt=self.mask_scaling(coarse),
            sparse_prompts=sparse,
        )


class SentencePrompter(nn.Module):
    """Replacement of the prompter in ablations: the sentence feature is SAM's only sparse prompt."""

    def forward(self, text: Tensor, _text_mask: Tensor, sentence_position: Tensor, *_unused: object) -> PrompterOutput:
        """Select the sentence feature, with its gradient; arguments as in `Prompter.forward`."""
        prompt = text[torch.arange(text.shape[0], device=text.device), sentence_position].unsqueeze(1)
        return PrompterOutput(tokens=prompt, coarse_mask_logits=None, dense_prompt=None, sparse_prompts=prompt)
