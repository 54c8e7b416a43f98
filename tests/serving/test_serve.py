"""The process: `refersam serve` from start to SIGTERM."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("fastapi_offline", reason="the server's packages are not installed: pip install '.[serve]'")

import httpx2
from fastapi import FastAPI, Response

from refersam import ReferSamPredictor
from refersam.serving import app as app_module
from refersam.serving import run as run_module
from refersam.serving.app import create_app
from refersam.serving.settings import ServerSettings

EXAMPLE = Path(__file__).parents[2] / "examples" / "scene_1.png"


@pytest.fixture
def server(tiny_model_folder: Path) -> SimpleNamespace:
    """Its process and address."""
    command = [sys.executable, "-m", "refersam", "serve", "--port", "0", "--model", str(tiny_model_folder)]
    process = subprocess.Popen(
        [*command, "--device", "cpu", "--upload-seconds", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r"http://\S+", line)
    assert found is not None, line + process.stdout.read()
    yield SimpleNamespace(process=process, address=found.group())
    process.kill()
    process.wait()


def wait_until_ready(address: str) -> None:
    """At most half a minute."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            if httpx2.get(f"{address}/ready").status_code == 200:
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.05)
    raise TimeoutError(address)


def ask(address: str) -> int:
    """Status of the answer."""
    files = {"image": EXAMPLE.read_bytes()}
    return httpx2.post(f"{address}/v1/segment", files=files, data={"phrases": ["a", "b"]}, timeout=60).status_code


@contextmanager
def served(app: FastAPI) -> Iterator[tuple[str, int]]:
    """Its host and port; served in a thread, which ends afterwards."""
    listening = run_module.open_socket("127.0.0.1", 0)
    server = threading.Thread(target=run_module.serve, args=(app, listening, ServerSettings()), daemon=True)
    server.start()
    yield listening.getsockname()
    app.state.give_up()
    server.join(10)
    assert not server.is_alive()


def test_ctrl_c(server: SimpleNamespace) -> None:
    """Ends as SIGTERM does, but with the exit code of an interrupt."""
    wait_until_ready(server.address)
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(30) == 130
    assert "Traceback" not in server.process.stdout.read()


def test_from_start_to_sigterm(server: SimpleNamespace) -> None:
    """Every request that came in is answered before the process ends; a slow upload is cut off; exit code 0."""
    wait_until_ready(server.address)
    host, port = server.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as slow:
        slow.sendall(
            b"POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x"
        )
        assert b" 408 " in slow.recv(1000)
    with ThreadPoolExecutor(6) as pool:
        answers = [pool.submit(ask, server.address) for _ in range(6)]
        end = time.monotonic() + 20
        while "refersam_open_requests 0.0" in httpx2.get(f"{server.address}/metrics").text:
            assert time.monotonic() < end
            if all(answer.done() for answer in answers):
                break
        server.process.send_signal(signal.SIGTERM)
        statuses = []
        for answer in answers:
            try:
                statuses.append(answer.result())
            except httpx2.ConnectError:  # came after the end
                statuses.append(None)
    assert 200 in statuses
    assert set(statuses) <= {200, 503, None}
    assert server.process.wait(20) == 0
    assert "Traceback" not in server.process.stdout.read()


def test_connections_without_a_request_end(tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Silent ones, those with half a head, and those that stay after an answer; a request at work is not ended."""
    monkeypatch.setattr(run_module, "HEAD_SECONDS", 1.0)
    real = app_module.run_queries

    def slow(model: Any, queries: Any) -> Any:
        time.sleep(2.5)
        return real(model, queries)

    with served(create_app(ReferSamPredictor.from_pretrained(tiny_model_folder, device="cpu"))) as address:
        base = f"http://{address[0]}:{address[1]}"
        wait_until_ready(base)
        monkeypatch.setattr(app_module, "run_queries", slow)
        silent, half, idle = (socket.create_connection(address) for _ in range(3))
        half.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n")
        idle.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        idle.settimeout(5)
        assert idle.recv(4096).startswith(b"HTTP/1.1 200")
        idle.sendall(b"GET /health HTTP/1.1\r\n")  # half of the next head: uvicorn's own timer is off
        assert ask(base) == 200
        for waiting in (silent, half, idle):
            waiting.settimeout(5)
            received = b"".join(iter(lambda waiting=waiting: waiting.recv(4096), b""))  # until the server ends it
            assert b"HTTP/1.1" not in received
            waiting.close()


def test_answers_that_nobody_reads_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a request that is answered, and of one behind it that waits to be; a slow reader gets all."""
    monkeypatch.setattr(run_module, "HEAD_SECONDS", 0.2)
    monkeypatch.setattr(run_module, "STALL_SECONDS", 1.0)
    app, size, asked = FastAPI(), 20_000_000, []
    app.state.failure = None

    @app.get("/")
    async def large() -> Response:
        asked.append(1)
        return Response(b"x" * size)

    with served(app) as address:
        clients = [socket.socket() for _ in range(3)]
        for client in clients:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            client.settimeout(20)
            client.connect(address)
        once, twice, slow = clients
        head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
        for client, requests in ((once, 1), (twice, 2), (slow, 1)):
            client.sendall(head * requests)
        got, end = 0, time.monotonic() + 2.5  # well beyond the limit, though never still for so long
        while got < size:
            got += len(slow.recv(2_000_000 if time.monotonic() > end else 50_000))
            time.sleep(0.01)
        for client in (once, twice):
            assert sum(len(part) for part in iter(lambda client=client: client.recv(2_000_000), b"")) < size
        for client in clients:
            client.close()
        assert len(asked) == 4


def test_a_port_that_is_taken(run: Callable[..., SimpleNamespace]) -> None:
    """One sentence, exit code 1, before the model is loaded."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run("serve", "--port", taken.getsockname()[1])
    assert (done.code, "Nothing can be served at 127.0.0.1" in done.err, "Traceback" in done.err) == (1, True, False)
    assert run("serve", "--api-key", " x").code == 2


def test_no_model(run: Callable[..., SimpleNamespace], tmp_path: Path) -> None:
    """One sentence, exit code 1: the server does not stay up without one."""
    done = run("serve", "--port", "0", "--model", tmp_path)
    assert (done.code, "Traceback" in done.err) == (1, False)
    assert "holds no ReferSAM model" in done.err


def test_without_its_packages_the_extra_is_named(
    run: Callable[..., SimpleNamespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sentence."""
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    done = run("serve")
    assert (done.code, "pip install '.[serve]'" in done.err) == (1, True)
