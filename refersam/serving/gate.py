"""Access control and limits of requests, checked before and while a request's body is read."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Mapping

from fastapi import HTTPException
from fastapi.responses import JSONResponse
from python_multipart.multipart import parse_options_header
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from refersam.serving.metrics import Metrics
from refersam.serving.settings import ServerSettings

NOT_READY = "The server is loading its model or shutting down: try again later."

_CHARSETS = (b"utf-8", b"utf8", b"us-ascii")
_DRAIN_SECONDS = 5.0
"""Time to read the body of a rejected request; closing at once would reset the connection and lose the response."""


class Gate:
    """ASGI middleware that checks API key, readiness, load, content type, size and time for the paths in `guarded`."""

    def __init__(self, app: ASGIApp, settings: ServerSettings, metrics: Metrics, guarded: tuple[str, ...]) -> None:
        self.app, self.settings, self.metrics, self.guarded = app, settings, metrics, guarded
        self.open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle an ASGI request."""
        if scope["type"] != "http" or scope["path"] not in self.guarded or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        start, status = time.monotonic(), 500

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        kinds = sum(name.lower() == b"content-type" for name, _ in scope["headers"])
        refusal = self._refuse(headers, kinds, scope["app"].state.ready and not scope["app"].state.draining)
        try:
            if refusal is not None:
                await self._drain(receive, headers)
                await refusal(scope, receive, note)
                return
            self.open += 1
            self.metrics.open_requests.set(self.open)
            try:
                await self.app(scope, self._limited(receive), note)
            finally:
                self.open -= 1
                self.metrics.open_requests.set(self.open)
        finally:
            self.metrics.requests.labels(status=str(status)).inc()
            self.metrics.seconds.observe(time.monotonic() - start)

    def _refuse(self, headers: Mapping[str, str], kinds: int, ready: bool) -> JSONResponse | None:
        key = self.settings.api_key
        if key is not None:
            sent = headers.get("authorization", "")
            if not hmac.compare_digest(sent.encode("latin-1"), b"Bearer " + key.encode()):
                return _error(401, "Send the API key as 'Authorization: Bearer KEY'.", {"WWW-Authenticate": "Bearer"})
        if not ready:
            return _error(503, NOT_READY, {"Retry-After": "5"})
        if self.open >= self.settings.max_requests:
            return _error(429, f"{self.open} requests are waiting: try again later.", {"Retry-After": "1"})
        kind, options = parse_options_header(headers.get("content-type", ""))
        # The charset selects the decoder of fields; some decoders take minutes for one field.
        if (
            kinds != 1
            or kind.lower() != b"multipart/form-data"
            or options.get(b"charset", b"utf-8").lower() not in _CHARSETS
        ):
            return _error(
                415, "Send multipart/form-data with a file 'image' and one or several fields 'phrases', in UTF-8."
            )
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self.settings.max_bytes:
            return _error(413, _too_large(self.settings))
        return None

    def _limited(self, receive: Receive) -> Receive:
        """Return `receive` with limits for bytes and time."""
        got, more, end = 0, True, time.monotonic() + self.settings.upload_seconds

        async def limited() -> Message:
            nonlocal got, more
            if not more:  # the body is complete; the only remaining message is the disconnect
                return await receive()
            try:
                async with asyncio.timeout(end - time.monotonic()):
                    message = await receive()
            except TimeoutError as error:
                raise HTTPException(408, f"The body took longer than {self.settings.upload_seconds:g} s.") from error
            got += len(message.get("body", b""))
            more = message.get("more_body", False)
            if got > self.settings.max_bytes:
                raise HTTPException(413, _too_large(self.settings))
            return message

        return limited

    async def _drain(self, receive: Receive, headers: Mapping[str, str]) -> None:
        if "100-continue" in headers.get("expect", "").lower():  # the client sends no body yet
            return
        got, more = 0, True
        try:
            async with asyncio.timeout(_DRAIN_SECONDS):
                while more and got <= 2 * self.settings.max_bytes:
                    message = await receive()
                    got += len(message.get("body", b""))
                    more = message.get("more_body", False)
        except TimeoutError:
            return


def _too_large(settings: ServerSettings) -> str:
    return f"A request may have {settings.max_bytes:,} bytes, and this one has more: send a smaller image."


def _error(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"detail": detail}, status, headers)
