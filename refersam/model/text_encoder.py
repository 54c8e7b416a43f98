"""Text encoders: BERT and CLIP's text model, from transformers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import BertModel, CLIPTextModel

from refersam.config import ReferSamConfig


def build_text_encoder(config: ReferSamConfig) -> nn.Module:
    """Build the text encoder of `config.text_config`, without loading weights."""
    if config.text_encoder_kind == "bert":
        return BertModel(config.text_config)
    encoder = CLIPTextModel(config.text_config)
    # Some releases of transformers wrap the encoder; without the wrapper, weights have the same names in all of them.
    return getattr(encoder, "text_model", encoder)


def encode_text(encoder: nn.Module, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Return the (B, S, Dt) last hidden state for (B, S) token ids and their attention mask."""
    return encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


def sentence_positions(kind: str, attention_mask: Tensor) -> Tensor:
    """Return the position of the sentence token of each phrase.

    Args:
        kind: 'bert' ([CLS], the first position) or 'clip' ([EOS], the last attended position).
        attention_mask: (B, S), 1 at real tokens.

    Returns:
        (B,) positions.
    """
    if kind == "bert":
        return torch.zeros_like(attention_mask[:, 0], dtype=torch.long)
    order = torch.arange(1, attention_mask.shape[1] + 1, device=attention_mask.device)
    return (attention_mask.long() * order).argmax(dim=1)
