"""`refersam demo`."""

from __future__ import annotations

import os
import signal
import tempfile
import webbrowser
from pathlib import Path
from typing import Annotated, Any

import typer

from refersam.cli import console
from refersam.cli.app import SERVE_PANEL, app

BOX_NAME = "bundled model (rendered scenes)"


@app.command(rich_help_panel=SERVE_PANEL, epilog="Example: refersam demo, then open http://127.0.0.1:7860")
def demo(
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 makes the page reachable from other machines.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the page.")] = 7860,
    model: Annotated[
        list[str] | None,
        typer.Option(help=f"{console.MODEL_HELP} Repeat the option for several models to choose from on the page."),
    ] = None,
    device: console.DeviceOption = None,
    dtype: console.DtypeOption = console.Dtype.float32,
    max_pixels: console.PixelsOption = 25_000_000,
    max_phrases: Annotated[int, typer.Option(min=1, max=64, help="Largest number of phrases in one query.")] = 8,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in this machine's browser.")] = False,
) -> None:
    """Serve a web page: drop an image, type phrases, see and download the masks.

    Nothing leaves this machine: no telemetry, no link from outside, and files of visitors are deleted.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
    with tempfile.TemporaryDirectory(prefix="refersam-demo-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = str(Path(folder) / "uploads")
        from refersam.optional import require
        from refersam.web.proxies import without_proxies

        with without_proxies():
            gr: Any = require("gradio", "demo", "refersam demo")
        from starlette.middleware import Middleware

        from refersam.serving.run import address_of, open_socket
        from refersam.web.guard import RefuseLinks
        from refersam.web.layout import FONTS, SCRIPT, STYLE, build_page
        from refersam.web.page import Page, PageSettings

        open_socket(host, port).close()  # a port that is taken is said before models are loaded
        is_terminated = False

        def terminate(*_signal: object) -> None:
            nonlocal is_terminated
            is_terminated = True
            raise KeyboardInterrupt  # as Ctrl-C, so that files of visitors are deleted

        signal.signal(signal.SIGTERM, terminate)
        names: dict[str, str | None] = {name: name for name in model} if model else {BOX_NAME: None}
        predictors = {name: console.load_predictor(where, device, dtype.value) for name, where in names.items()}
        page = Page(predictors, Path(folder) / "page", PageSettings(max_pixels=max_pixels, max_phrases=max_phrases))
        page.warm_up()
        console.say(f"The page is at {address_of(host, port)}. Ctrl-C stops it.")
        for domain in dict.fromkeys(predictor.domain for predictor in predictors.values()):
            console.say_domain(domain)
        blocks = build_page(page)
        with without_proxies():
            blocks.launch(
                server_name=host,
                server_port=port,
                share=False,
                quiet=True,
                css=STYLE,
                theme=gr.themes.Default(font=FONTS),
                js=SCRIPT,
                footer_links=[],
                allowed_paths=[str(Path(folder) / "page")],
                max_file_size=page.settings.max_bytes,
                ssr_mode=False,
                pwa=False,
                mcp_server=False,
                enable_monitoring=False,
                app_kwargs={"middleware": [Middleware(RefuseLinks)]},
                prevent_thread_lock=True,
            )
        if open_browser:
            webbrowser.open(blocks.local_url)  # outside of the block: the browser may need its proxy
        blocks.block_thread()
        if not is_terminated:  # gradio catches Ctrl-C itself, and returns
            raise typer.Exit(console.INTERRUPTED)
