"""Server process: socket, graceful shutdown and signals."""

from __future__ import annotations

import asyncio
import signal
import socket
from types import FrameType

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from refersam.errors import ReferSamError
from refersam.serving.settings import ServerSettings

HEAD_SECONDS = 10.0
"""Time limit for the head of a request."""
STALL_SECONDS = 60.0
"""Time limit for a client that does not read its response."""
_SPARE_CONNECTIONS = 64
"""Extra connections for health, metrics, and 429 responses."""


def address_of(host: str, port: int) -> str:
    """Return the URL of a host and port; an IPv6 host is put in brackets."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def open_socket(host: str, port: int) -> socket.socket:
    """Return a listening socket (port 0: any free port); raise ReferSamError if binding fails."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise ReferSamError(f"Nothing can be served at {host}:{port}: {error.strerror or error}.") from error


def serve(app: FastAPI, listening: socket.socket, settings: ServerSettings) -> None:
    """Serve the app of `create_app` until SIGTERM or Ctrl-C, then finish the open requests.

    Raises:
        KeyboardInterrupt: Ctrl-C ended the server.
        Exception: the model could not be loaded.
    """
    config = uvicorn.Config(
        app,
        http=_Connection,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=settings.max_requests + _SPARE_CONNECTIONS,
        timeout_graceful_shutdown=round(settings.upload_seconds + settings.answer_seconds),
    )
    server = _Server(config)
    app.state.give_up = server.give_up
    server.run(sockets=[listening])
    if app.state.failure is not None:
        raise app.state.failure
    if server.is_interrupted:
        raise KeyboardInterrupt


class _Connection(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """Connection with time limits for the next request and for a client that does not read its response.

    uvicorn has no such limits, and stalled connections would count against the connection limit.
    """

    _seen: object = None
    """State since `_since`: request cycle, idle flag, and number of unread response bytes."""
    _since = 0.0
    _check: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._end_if_stuck()

    def connection_lost(self, error: Exception | None) -> None:
        if self._check is not None:
            self._check.cancel()
        super().connection_lost(error)

    def _end_if_stuck(self) -> None:
        is_idle = self.cycle is None or self.cycle.response_complete  # an incomplete head has no cycle
        unread = self.transport.get_write_buffer_size()
        now, seen = self.loop.time(), (self.cycle, is_idle, unread)
        if seen != self._seen:
            self._seen, self._since = seen, now
        elif unread and now - self._since >= STALL_SECONDS:
            self.transport.abort()  # `close` would wait for the client to read the response
            return
        elif is_idle and not unread:
            self.transport.close()
            return
        self._check = self.loop.call_later(HEAD_SECONDS, self._end_if_stuck)


class _Server(uvicorn.Server):
    """Server that returns on a signal; uvicorn's would raise the signal again."""

    is_interrupted = False
    """Whether Ctrl-C (not SIGTERM) ended the server."""

    def give_up(self) -> None:
        """Stop the server because the model could not be loaded."""
        self.should_exit = True

    def handle_exit(self, sig: int, _frame: FrameType | None) -> None:
        self.config.app.state.draining = True  # type: ignore[union-attr]
        self.force_exit = self.should_exit and sig == signal.SIGINT  # second Ctrl-C
        self.is_interrupted = sig == signal.SIGINT
        self.should_exit = True
