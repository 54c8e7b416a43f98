"""Bypassing of environment proxies for requests to this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_proxies() -> Iterator[None]:
    """Bypass all proxies of the environment inside the block.

    Gradio requests its own page at launch, which fails through a proxy. A SOCKS proxy without its package makes the
    import of gradio fail.
    """
    before = os.environ.get("no_proxy")
    os.environ["no_proxy"] = "*"  # the lower-case name takes precedence
    try:
        yield
    finally:
        if before is None:
            del os.environ["no_proxy"]
        else:
            os.environ["no_proxy"] = before
