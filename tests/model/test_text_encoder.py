"""The sentence token of each kind of text encoder."""

from __future__ import annotations

import torch

from refersam.model.text_encoder import sentence_positions


def test_sentence_positions_by_hand() -> None:
    """BERT's sentence token is the first; CLIP's is the last attended one."""
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0]])
    assert sentence_positions("bert", mask).tolist() == [0, 0, 0]
    assert sentence_positions("clip", mask).tolist() == [2, 3, 0]
