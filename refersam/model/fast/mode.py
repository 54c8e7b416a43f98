"""Mode of the current forward pass: inference, or recording of a graph for export."""

from __future__ import annotations

import torch


def is_inference() -> bool:
    """Return whether neither gradients nor a graph are recorded, so that buffers may be overwritten or split."""
    return not (torch.is_grad_enabled() or torch.compiler.is_compiling())


def is_exporting() -> bool:
    """Return whether `torch.export` records a graph, whose batch and image sizes may be dynamic."""
    return torch.compiler.is_exporting()
