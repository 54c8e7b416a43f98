"""What treats tokens one by one, a block of them at a time: its insides then need a block's memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

BLOCK_VALUES = {"cpu": 4608 * 768}
"""Tokens times their width that go at once, by type of device: enough to keep it busy."""
DEFAULT_BLOCK_VALUES = 32768 * 768
"""The same for other devices, which are busy with more."""


def nothing_recorded() -> bool:
    """Whether no gradient and no graph is wanted: then results may be written over one another and made in parts."""
    return not (torch.is_grad_enabled() or torch.compiler.is_compiling())


def in_blocks(
    function: Callable[..., Tensor],
    tokens: tuple[Tensor, ...],
    *per_sample: Tensor,
    width: int,
    out: Tensor | None = None,
) -> Tensor:
    """function(*tokens, *per_sample), where a token's result depends on no other token.

    It is called for one block after the other where there are more tokens than a block has, and nothing is recorded.

    Args:
        function: from tensors as below to (B, N, D).
        tokens: (B, N, ...) each.
        per_sample: (B, ...) each: what all tokens of a sample need.
        width: of the model's tokens, which is how much a token takes inside, more or less.
        out: (B, N, D), where the blocks' results go if it has their type. It may be one of `tokens`, if that is not
            needed afterwards: a block is read before it is written.

    Returns:
        (B, N, D): `out`, or a tensor of its own.
    """
    if not nothing_recorded():  # asked first: a graph may leave the sizes open
        return function(*tokens, *per_sample)
    batch, length = tokens[0].shape[:2]
    most = max(1, BLOCK_VALUES.get(tokens[0].device.type, DEFAULT_BLOCK_VALUES) // width)
    if batch * length <= most:
        return function(*tokens, *per_sample)
    result = out
    for samples, part in _blocks(batch, length, most):
        inputs = [stream[samples, part] for stream in tokens]
        block = function(*inputs, *(values[samples] for values in per_sample))
        if result is None or result.dtype != block.dtype:  # under autocast it may differ from the tokens'
            result = block.new_empty(batch, length, block.shape[2])
        result[samples, part] = block
    return result  # type: ignore[return-value]  # there is a block


def _blocks(batch: int, length: int, most: int) -> Iterator[tuple[slice, slice]]:
    """Whole samples, as many as fit; or parts of about the same length of samples that do not."""
    together = max(1, most // length)
    parts = -(-length // most)
    size = -(-length // parts)
    for first in range(0, batch, together):
        for start in range(0, length, size):
            yield slice(first, first + together), slice(start, start + size)
