"""Calls to this machine's own addresses, which must not go through a proxy of the environment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_proxies() -> Iterator[None]:
    """Bypass all proxies of the environment inside the block.

    Gradio requests its own page at launch, which a proxy refuses, and a SOCKS proxy without its package ends gradio's
    import.
    """
    before = os.environ.get("no_proxy")
    os.environ["no_proxy"] = "*"  # the name in lower case counts where both are set
    try:
        yield
    finally:
        if before is None:
            del os.environ["no_proxy"]
        else:
            os.environ["no_proxy"] = before
