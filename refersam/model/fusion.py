"""Fusion of text and pyramid by attention in both directions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import initialization as init

from refersam.model.attention import Attention, LevelAttention
from refersam.model.fast.chunks import in_chunks

NORM_EPS = 1e-6


class FeedForward(nn.Sequential):
    """Linear, GELU, Linear."""

    def __init__(self, *, hidden_size: int, inner_size: int) -> None:
        super().__init__(nn.Linear(hidden_size, inner_size), nn.GELU(), nn.Linear(inner_size, hidden_size))


class Fusion(nn.Module):
    """Text and context tokens attend to the pyramid, then the pyramid attends to them. Every sublayer is post-norm.

    Args:
        text_size: width of the text stream.
        hidden_size: width of the pyramid.
        attention_size: width of all attention heads together.
        num_heads: number of heads.
        ffn_ratio: hidden width of the feed-forward networks, as a multiple of each stream's own width.
        gate_init: initial value of the gates.
    """

    def __init__(
        self,
        *,
        text_size: int,
        hidden_size: int,
        attention_size: int,
        num_heads: int,
        ffn_ratio: float,
        gate_init: float,
    ) -> None:
        super().__init__()
        self.gate_init = gate_init
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

    def reset_parameters(self) -> None:
        """Initialise the gates."""
        init.constant_(self.text_gate, self.gate_init)
        init.constant_(self.pyramid_gate, self.gate_init)

    def forward(
        self, text: Tensor, text_mask: Tensor, pyramid: Tensor, positions: Tensor, level_lengths: list[int]
    ) -> tuple[Tensor, Tensor]:
        """Fuse text and pyramid.

        Args:
            text: (B, T, text_size) text and context tokens.
            text_mask: (B, T) boolean, True at real tokens.
            pyramid: (B, L, hidden_size).
            positions: (1, L, hidden_size) positions of the pyramid's tokens.
            level_lengths: tokens per level.

        Returns:
            (B, T, text_size) text and (B, L, hidden_size) pyramid.
        """
        text = self.text_self_norm(text + self.text_self_attention(text, text, text, text_mask))
        located = pyramid + positions
        seen = self.text_to_pyramid(text, located, pyramid, level_lengths)
        text = self.text_cross_norm(torch.addcmul(text, self.text_gate, seen))
        text = self.text_ffn_norm(text + self.text_ffn(text))
        pyramid = in_chunks(self._read_text, (pyramid, located), text, text_mask, width=pyramid.shape[2], out=located)
        return text, pyramid

    def _read_text(self, pyramid: Tensor, located: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
        """Update (B, N, hidden_size) pyramid tokens by attention to the text; `located` includes their positions."""
        pyramid = self.pyramid_cross_norm(
            torch.addcmul(pyramid, self.pyramid_gate, self.pyramid_to_text(located, text, text, text_mask))
        )
        return self.pyramid_ffn_norm(pyramid + self.pyramid_ffn(pyramid))
