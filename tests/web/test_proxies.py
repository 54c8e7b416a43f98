"""`refersam demo` behind a proxy: its own address is not asked of the proxy."""

from __future__ import annotations

import os
import signal
import socket
import urllib.request
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

Run = Callable[..., SimpleNamespace]
CLOSED = "127.0.0.1:9"


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A free one; what the command changes of this process is put back."""
    handler = signal.getsignal(signal.SIGTERM)
    for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED"):
        monkeypatch.setenv(name, "")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number = probe.getsockname()[1]
    yield number
    signal.signal(signal.SIGTERM, handler)


@pytest.mark.parametrize("proxies", [{"http_proxy": f"http://{CLOSED}"}, {"all_proxy": f"socks5://{CLOSED}"}])
def test_the_page_starts_behind_a_proxy(
    run: Run, port: int, proxies: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that refuses connections, or that httpx has no package for; the environment is as it was while it serves."""
    gradio = pytest.importorskip("gradio")
    seen: list[Any] = []

    def visit(blocks: Any) -> None:
        seen.append(os.environ["no_proxy"])
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(f"http://127.0.0.1:{port}/", timeout=10) as reply:
            seen.append(reply.status)
        blocks.close()

    monkeypatch.setattr(gradio.Blocks, "block_thread", visit)
    monkeypatch.setenv("no_proxy", "example.org")
    for name, address in proxies.items():
        monkeypatch.setenv(name, address)
    result = run("demo", "--port", port, "--device", "cpu")
    assert (result.code, seen) == (130, ["example.org", 200]), result.err  # gradio returns after Ctrl-C alone
