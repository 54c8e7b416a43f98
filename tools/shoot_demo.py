"""The pictures of docs/demo.md: the web page in headless Chromium, as a visitor has it.

pip install -e '.[demo,browser]'
python tools/shoot_demo.py
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[1]
PORT = 7861
PHRASES = ("the orange star", "the white square", "the small triangles", "the green elephant")
VIEWS = {"desktop": (1200, 885), "phone": (390, 1560)}


def main() -> None:
    """Start the page, ask, and take a picture of each size."""
    url = f"http://127.0.0.1:{PORT}/"
    server = subprocess.Popen([sys.executable, "-m", "refersam", "demo", "--port", str(PORT)])
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(url, timeout=2).close()
                break
            except OSError:
                time.sleep(0.5)
        with sync_playwright() as api:
            chromium = shutil.which("chromium") or shutil.which("google-chrome")
            browser = api.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
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
                page.wait_for_timeout(1500)  # until nothing moves any more
                page.screenshot(path=ROOT / "docs" / "images" / f"demo_{name}.png")
            browser.close()
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
