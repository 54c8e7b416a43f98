"""Server settings."""

from __future__ import annotations

from dataclasses import dataclass, fields

from refersam.checks import check_number


@dataclass(frozen=True)
class ServerSettings:
    """Limits of the memory and time per client, and the API key.

    Attributes:
        max_bytes: maximum size of a request's body in bytes.
        max_pixels: maximum width times height of an image, checked before decoding.
        max_phrases: maximum number of phrases per request.
        max_characters: maximum number of characters per phrase.
        max_requests: maximum number of open requests; further ones are rejected.
        upload_seconds: time limit for receiving a request's body.
        answer_seconds: time limit from the complete body to the answer.
        batch_size: maximum number of phrases in one model run; a request with more phrases is not split.
        readers: number of threads that decode images and encode masks, one image per thread at a time.
        api_key: key that clients must send as `Authorization: Bearer KEY`; None for a server without authentication.

    Raises:
        ValueError: a limit is below 1, or below 0.001 seconds.
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
