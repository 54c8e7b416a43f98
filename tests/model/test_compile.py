"""torch.compile: the whole model is one graph for all text lengths."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from refersam import ReferSamModel


@pytest.mark.slow
@pytest.mark.timeout(900)
@torch.inference_mode()
def test_one_graph_for_all_lengths_of_text(small_config: Callable) -> None:
    """No graph breaks (fullgraph raises at the first), one graph for every length, and equal results."""
    model = ReferSamModel(small_config("bert")).eval()
    counter = CompileCounter()
    compiled = torch.compile(model, backend=counter, fullgraph=True, dynamic=True)
    for length in (5, 9, 14):
        pixels, ids = torch.randn(1, 3, 64, 64), torch.randint(3, 50, (1, length))
        mask = torch.ones_like(ids)
        ours, plain = compiled(pixels, ids, mask), model(pixels, ids, mask)
        torch.testing.assert_close(ours.mask_logits, plain.mask_logits, atol=1e-4, rtol=1e-4)
    assert counter.frame_count == 1
