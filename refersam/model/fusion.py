"""Fusion of text and pyramid: each reads the other."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from refersam.model.attention import Attention, LevelAttention

NORM_EPS = 1e-6

BLOCK_TOKENS = 8192
"""Tokens that go through a feed-forward net at once where no gradient is wanted: enough to keep a device busy."""


class FeedForward(nn.Sequential):
    """Linear, GELU, Linear."""

    def __init__(self, *, hidden_size: int, inner_size: int) -> None:
        super().__init__(nn.Linear(hidden_size, inner_size), nn.GELU(), nn.Linear(inner_size, hidden_size))


def in_blocks(module: nn.Module, tokens: Tensor) -> Tensor:
    """module(tokens) for (B, N, D) tokens that it treats one by one; without gradients a block of tokens at a time.

    What a feed-forward net holds inside then takes as much memory as a block, whatever the size and number of pictures.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or tokens.shape[:2].numel() <= BLOCK_TOKENS:
        return module(tokens)
    result = torch.empty_like(tokens)
    for block, target in zip(
        tokens.flatten(0, 1).split(BLOCK_TOKENS), result.flatten(0, 1).split(BLOCK_TOKENS), strict=True
    ):
        target.copy_(module(block))
    return result


class Fusion(nn.Module):
    """Text and context tokens read the pyramid, then the pyramid reads them. Every sublayer is post-norm.

    Args:
        text_size: width of the text stream.
        hidden_size: width of the pyramid.
        attention_size: width inside the attention.
        num_heads: heads.
        ffn_ratio: hidden width of the feed-forward nets, as a multiple of each stream's own width.
    """

    def __init__(
        self, *, text_size: int, hidden_size: int, attention_size: int, num_heads: int, ffn_ratio: float
    ) -> None:
        super().__init__()
        text, pyramid = {"query_size": text_size}, {"query_size": hidden_size}
        inside = {"hidden_size": attention_size, "num_heads": num_heads}
        self.text_self_attention = Attention(**text, key_size=text_size, **inside)
        self.text_self_norm = nn.LayerNorm(text_size, eps=NORM_EPS)
        self.text_to_pyramid = LevelAttention(**text, key_size=hidden_size, **inside)
        self.text_gate = nn.Parameter(torch.empty(text_size))
        self.text_cross_norm = nn.LayerNorm(text_size, eps=NORM_EPS)
        self.text_ffn = FeedForward(hidden_size=text_size, inner_size=int(ffn_ratio * text_size))
        self.text_ffn_norm = nn.LayerNorm(text_size, eps=NORM_EPS)
        self.pyramid_to_text = Attention(**pyramid, key_size=text_size, **inside)
        self.pyramid_gate = nn.Parameter(torch.empty(hidden_size))
        self.pyramid_cross_norm = nn.LayerNorm(hidden_size, eps=NORM_EPS)
        self.pyramid_ffn = FeedForward(hidden_size=hidden_size, inner_size=int(ffn_ratio * hidden_size))
        self.pyramid_ffn_norm = nn.LayerNorm(hidden_size, eps=NORM_EPS)

    def forward(
        self, text: Tensor, text_mask: Tensor, pyramid: Tensor, positions: Tensor, level_lengths: list[int]
    ) -> tuple[Tensor, Tensor]:
        """Fuse.

        Args:
            text: (B, T, text_size) text and context tokens.
            text_mask: (B, T) boolean, True at real tokens.
            pyramid: (B, L, hidden_size).
            positions: (1, L, hidden_size) positions of the pyramid's tokens.
            level_lengths: tokens per level.

        Returns:
            The new text and pyramid, shaped as they came.
        """
        text = self.text_self_norm(text + self.text_self_attention(text, text, text, text_mask))
        located = pyramid + positions
        seen = self.text_to_pyramid(text, located, pyramid, level_lengths)
        text = self.text_cross_norm(torch.addcmul(text, self.text_gate, seen))
        text = self.text_ffn_norm(text + self.text_ffn(text))
        read = self.pyramid_to_text(located, text, text, text_mask)
        pyramid = self.pyramid_cross_norm(torch.addcmul(pyramid, self.pyramid_gate, read))
        del located, read  # as large as the pyramid; not needed while the feed-forward net runs
        pyramid = self.pyramid_ffn_norm(pyramid + in_blocks(self.pyramid_ffn, pyramid))
        return text, pyramid
