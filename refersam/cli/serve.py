"""`refersam serve`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from refersam.cli import console
from refersam.cli.app import SERVE_PANEL, app
from refersam.serving.settings import ServerSettings

if TYPE_CHECKING:
    from refersam.inference.predictor import ReferSamPredictor

_USUAL = ServerSettings()


@app.command(
    rich_help_panel=SERVE_PANEL, epilog="Example: refersam serve --port 8000, then open http://127.0.0.1:8000/docs"
)
def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 makes the server reachable from other machines.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the server; 0 takes any free one.")] = 8000,
    model: console.ModelOption = None,
    device: console.DeviceOption = None,
    dtype: console.DtypeOption = console.Dtype.float32,
    max_bytes: Annotated[int, typer.Option(min=1000, help="Largest request in bytes.")] = _USUAL.max_bytes,
    max_pixels: console.PixelsOption = _USUAL.max_pixels,
    max_phrases: Annotated[
        int, typer.Option(min=1, max=255, help="Largest number of phrases in a request.")
    ] = _USUAL.max_phrases,
    max_requests: Annotated[
        int, typer.Option(min=1, help="Largest number of open requests; further ones are answered with status 429.")
    ] = _USUAL.max_requests,
    upload_seconds: Annotated[
        float, console.number_option(0.1, 86_400, "Longest time in seconds for a request to arrive.")
    ] = _USUAL.upload_seconds,
    answer_seconds: Annotated[
        float, console.number_option(0.1, 86_400, "Longest time in seconds from a request to its answer.")
    ] = _USUAL.answer_seconds,
    batch_size: console.BatchSizeOption = console.BATCH_SIZE,
    readers: Annotated[int, typer.Option(min=1, help="Number of threads that decode images.")] = _USUAL.readers,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="REFERSAM_API_KEY",
            help="Key that clients must send. Safer in the environment variable than on the command line.",
        ),
    ] = None,
) -> None:
    """Answer images and phrases over HTTP."""
    from refersam.optional import require

    for module in ("fastapi", "uvicorn", "prometheus_client", "python_multipart", "fastapi_offline"):
        require(module, "serve", "refersam serve")
    from refersam.serving.app import create_app
    from refersam.serving.run import address_of, open_socket
    from refersam.serving.run import serve as run

    if api_key is not None and not (api_key.isascii() and api_key.isprintable() and api_key.strip() == api_key != ""):
        raise typer.BadParameter("The API key must be printable ASCII text without spaces around it.")
    settings = ServerSettings(
        max_bytes=max_bytes,
        max_pixels=max_pixels,
        max_phrases=max_phrases,
        max_requests=max_requests,
        upload_seconds=upload_seconds,
        answer_seconds=answer_seconds,
        batch_size=batch_size,
        readers=readers,
        api_key=api_key,
    )
    with open_socket(host, port) as listening:
        address = address_of(host, listening.getsockname()[1])
        console.say(f"Serving on {address} (its pages: /docs). Ctrl-C stops it.")

        def load() -> ReferSamPredictor:
            predictor = console.load_predictor(model, device, dtype.value)
            console.say_domain(predictor.domain)
            return predictor

        run(create_app(load, settings), listening, settings)
