"""Computation in chunks of tokens, so that intermediate results need memory for one chunk only."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor

from refersam.model.fast.mode import is_inference

CHUNK_VALUES = {"cpu": 4608 * 768}
"""Tokens times their width per chunk, by device type: enough to keep the device busy."""
DEFAULT_CHUNK_VALUES = 32768 * 768
"""The same for all other device types."""


def in_chunks(
    function: Callable[..., Tensor],
    tokens: tuple[Tensor, ...],
    *per_sample: Tensor,
    width: int,
    out: Tensor | None = None,
) -> Tensor:
    """Compute `function(*tokens, *per_sample)`, in inference for one chunk of tokens after another.

    The result of a token must not depend on other tokens. The reference implementation is the call of `function`.

    Args:
        function: maps tensors as below to (B, N, D).
        tokens: (B, N, ...) each.
        per_sample: (B, ...) each, shared by all tokens of a sample.
        width: width of the model's tokens, an estimate of the memory that one token needs inside `function`.
        out: (B, N, D) buffer for the result, used if chunks are computed and the dtypes agree. It may be one of
            `tokens` if that is not needed afterwards: each chunk is read before it is overwritten.

    Returns:
        (B, N, D): `out` or a new tensor.
    """
    if not is_inference():  # before the sizes are read, which may be dynamic in a graph
        return function(*tokens, *per_sample)
    batch, length = tokens[0].shape[:2]
    max_tokens = max(1, CHUNK_VALUES.get(tokens[0].device.type, DEFAULT_CHUNK_VALUES) // width)
    if batch * length <= max_tokens:
        return function(*tokens, *per_sample)
    result = out
    for samples, part in _chunks(batch, length, max_tokens):
        inputs = [stream[samples, part] for stream in tokens]
        chunk = function(*inputs, *(values[samples] for values in per_sample))
        if result is None or result.dtype != chunk.dtype:  # autocast may change the dtype
            result = chunk.new_empty(batch, length, chunk.shape[2])
        result[samples, part] = chunk
    return result  # type: ignore[return-value]  # there is at least one chunk


def _chunks(batch: int, length: int, max_tokens: int) -> Iterator[tuple[slice, slice]]:
    """Yield slices of samples and tokens: as many whole samples as fit, or parts of one sample of similar length."""
    together = max(1, max_tokens // length)
    parts = -(-length // max_tokens)
    size = -(-length // parts)
    for first in range(0, batch, together):
        for start in range(0, length, size):
            yield slice(first, first + together), slice(start, start + size)
