"""How the current forward pass runs: for inference, or recorded into a graph for export."""

from __future__ import annotations

import torch


def is_inference() -> bool:
    """Return whether neither gradients nor a graph are recorded, so that buffers may be overwritten or split."""
    return not (torch.is_grad_enabled() or torch.compiler.is_compiling())


def is_exporting() -> bool:
    """Return whether `torch.export` records a graph, whose batch and image sizes may be open."""
    return torch.compiler.is_exporting()
