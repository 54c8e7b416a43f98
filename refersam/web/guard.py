"""Rejection of links in place of uploaded files."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Message, Receive, Send], Awaitable[None]]

MAX_BYTES = 1_000_000
"""Maximum size of a JSON request; images are uploaded separately, as files."""


class RefuseLinks:
    """ASGI middleware that rejects links in place of uploaded files, because gradio would fetch them."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Read the whole body of a request that may be JSON, reject links, and forward the request."""
        kinds = [value.strip().lower() for name, value in scope.get("headers", ()) if name.lower() == b"content-type"]
        is_upload = len(kinds) == 1 and kinds[0].startswith(b"multipart/form-data")  # other types may be parsed as JSON
        if scope["type"] != "http" or scope["method"] != "POST" or is_upload:
            await self.app(scope, receive, send)
            return
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if message["type"] == "http.disconnect" or len(body) > MAX_BYTES:
                await _refuse(send, 413, b"The request is too long.")
                return
        if _has_link(body):
            await _refuse(send, 400, b"An image must be uploaded: links are not fetched.")
            return
        handed_on = False

        async def receive_again() -> Message:
            nonlocal handed_on
            if handed_on:
                return await receive()
            handed_on = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, receive_again, send)


def _has_link(body: bytes) -> bool:
    """Return whether any "path" in a JSON text is a URL; False for invalid JSON."""
    try:
        waiting: list[Any] = [json.loads(body)]
    except (ValueError, RecursionError):
        return False
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            path = value.get("path")
            if isinstance(path, str) and "://" in path:
                return True
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return False


async def _refuse(send: Send, status: int, text: bytes) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(text)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text})
