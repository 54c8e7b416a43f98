"""Take the screenshots of docs/demo.md: the demo page in headless Chromium, at desktop and phone size.

pip install -e '.[demo,browser]'
python tools/screenshot_demo.py
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PHRASES = ("the orange star", "the white square", "the small triangles", "the green elephant")
VIEWS = {"desktop": (1200, 885), "phone": (390, 1560)}


@contextmanager
def running_demo() -> Iterator[str]:
    """Start `refersam demo` in another process, and yield its URL when it is ready.

    Raises:
        RuntimeError: the server exited.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-m", "refersam", "demo", "--port", str(port)])
    url = f"http://127.0.0.1:{port}/"
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(url, timeout=2).close()
                break
            except OSError:
                if server.poll() is not None:
                    raise RuntimeError("The demo server exited before it was ready.") from None
                time.sleep(0.5)
        yield url
    finally:
        server.terminate()
        server.wait(30)


def main() -> None:
    """Segment the example phrases on the page, and save a screenshot of each size."""
    from playwright.sync_api import sync_playwright

    with running_demo() as url, sync_playwright() as api:
        browser = api.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        for name, (width, height) in VIEWS.items():
            page = browser.new_page(viewport={"width": width, "height": height})
            page.goto(url)
            page.set_input_files("input[type=file]", str(ROOT / "examples" / "scene_1.png"))
            page.wait_for_selector("img[src*='scene_1']")
            page.click("#ask textarea")
            page.keyboard.insert_text("\n".join(PHRASES))
            page.click("#find")
            page.wait_for_selector("#answers .legend li")
            page.wait_for_selector("#answer img")
            page.wait_for_timeout(1500)  # until all animations have ended
            page.screenshot(path=ROOT / "docs" / "images" / f"demo_{name}.png")
        browser.close()


if __name__ == "__main__":
    main()
