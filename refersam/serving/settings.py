"""What a server allows."""

from __future__ import annotations

from dataclasses import dataclass, fields

from refersam.checks import check_number


@dataclass(frozen=True)
class ServerSettings:
    """Limits, each of which bounds the memory or time that clients can take.

    Attributes:
        max_bytes: of one request's body.
        max_pixels: width times height of an image, checked before it is decoded.
        max_phrases: in one request.
        max_characters: of one phrase.
        max_requests: at work or waiting; more are turned away.
        upload_seconds: for a request's body to arrive.
        answer_seconds: from then to the answer.
        batch_size: most phrases in one run of the model, of several requests; one request is never split.
        readers: threads that decode images and encode masks, each at one image at a time.
        api_key: that clients must send as `Authorization: Bearer KEY`; None for an open server.

    Raises:
        ValueError: a limit below 1, or below 0.001 seconds.
    """

    max_bytes: int = 20_000_000
    max_pixels: int = 25_000_000
    max_phrases: int = 16
    max_characters: int = 500
    max_requests: int = 64
    upload_seconds: float = 30.0
    answer_seconds: float = 60.0
    batch_size: int = 8
    readers: int = 2
    api_key: str | None = None

    def __post_init__(self) -> None:
        for limit in fields(self):
            if limit.name != "api_key":
                check_number(limit.name, getattr(self, limit.name), 0.001 if limit.type == "float" else 1)
