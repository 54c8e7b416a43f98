"""The page as a visitor has it, in headless Chromium: `make test-browser`."""

from __future__ import annotations

import json
import re
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from screenshot_demo import CHROMIUM, FLAGS, running_demo

from refersam import ReferSamPredictor
from refersam.inference.labels import label_map

pytestmark = pytest.mark.browser

SCENE = Path(__file__).parents[2] / "examples" / "scene_1.png"
PHRASES = "the orange star\nthe green elephant\nevery red object"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of `refersam demo` in a process of its own."""
    pytest.importorskip("gradio", reason="gradio is not installed: pip install '.[demo]'")
    with running_demo() as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is missing: pip install playwright")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed (Debian: apt-get install chromium).")
    with playwright.sync_playwright() as api:
        started = api.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS), headless=True)
        yield started
        started.close()


def download(page: Any, button: str) -> bytes:
    """What a click on a button brings."""
    with page.expect_download() as coming:
        page.click(f"#{button}")
    return Path(coming.value.path()).read_bytes()


def test_a_visit(address: str, browser: Any, tmp_path: Path) -> None:
    """Upload, type, ask by keyboard, read, choose one phrase, download: all as the predictor says."""
    page = browser.new_page(viewport={"width": 1200, "height": 1000}, accept_downloads=True)
    hosts: set[str] = set()
    page.on("request", lambda request: hosts.add(request.url.split("/")[2]))
    page.goto(address)
    page.set_input_files("input[type=file]", str(SCENE))
    page.wait_for_selector("img[src*='scene_1']")
    page.click("#ask textarea")
    page.keyboard.insert_text(PHRASES)
    start = time.perf_counter()
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#answers .legend li")
    assert time.perf_counter() - start < 10  # with room for a machine that is busy
    told = re.search(r"answered in ([\d.]+) s", page.inner_text("#answers"))
    assert told is not None
    assert float(told[1]) < 2

    expected = ReferSamPredictor.from_pretrained(device="cpu").predict(SCENE, PHRASES.splitlines())
    lines = page.locator("#answers .legend li").all_inner_texts()
    for line, answer in zip(lines, expected, strict=True):
        assert answer.phrase in line
        assert ("nothing matches" in line) == answer.no_target
        assert answer.no_target or f"score {answer.score:.2f}" in line
    assert any(answer.no_target for answer in expected)
    union = np.logical_or.reduce([answer.mask for answer in expected])
    (tmp_path / "mask.png").write_bytes(download(page, "mask"))
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "mask.png")) > 0, union)
    (tmp_path / "labels.png").write_bytes(download(page, "labels"))
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "labels.png")), label_map(expected))
    (tmp_path / "cutout.png").write_bytes(download(page, "cutout"))
    cutout = np.asarray(Image.open(tmp_path / "cutout.png"))
    np.testing.assert_array_equal(cutout[..., 3] > 0, union)
    document = json.loads(download(page, "coco"))
    for row in document["annotations"]:
        np.testing.assert_array_equal(coco_mask.decode(row["segmentation"]), expected[row["category_id"] - 1].mask)

    whole = page.locator("#answer img").get_attribute("src")
    page.locator("#choice input").nth(2).check()  # of which nothing is shown
    page.wait_for_function("before => document.querySelector('#answer img').src !== before", arg=whole)
    assert hosts == {address.split("/")[2]}
    page.close()


def test_mistakes_and_a_phone(address: str, browser: Any) -> None:
    """Nothing wider than the screen of a phone; a question without a picture is told what is missing."""
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(address)
    page.click("#ask textarea")
    page.keyboard.insert_text("the star")
    page.click("#find")
    page.wait_for_selector("text=Choose a picture first")
    page.click("#example-2")
    page.wait_for_selector("#answers .legend li")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.close()


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("photo.heic", struct.pack(">I", 24) + b"ftypheic" + bytes(4) + b"mif1heic" + bytes(100), "picture"),
        ("text.png", b"no image", "not a picture"),
        ("text.txt", b"no image", "Invalid file type"),
        ("cut.png", SCENE.read_bytes()[:9000], "cut off"),
        ("large.png", SCENE.read_bytes() + bytes(21_000_000), "maximum allowed size"),
    ],
)
def test_refused_files(address: str, browser: Any, tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    """Each leaves a sentence on the page, of ours or of gradio's upload, and never "Error" alone."""
    (tmp_path / name).write_bytes(content)
    page = browser.new_page(viewport={"width": 1200, "height": 1000})
    page.goto(address)
    page.wait_for_selector("#ask textarea")
    page.set_input_files("input[type=file]", str(tmp_path / name))
    page.wait_for_selector(f"img[src*='{name}'], .toast-body")
    page.click("#ask textarea")
    page.keyboard.insert_text("the star")
    page.click("#find")
    page.wait_for_selector("#answers .refused")
    assert sentence in page.inner_text("#answers") + " ".join(page.locator(".toast-body").all_inner_texts())
    assert "Error" not in page.inner_text("#answers")
    page.close()


def test_the_banner(address: str, browser: Any) -> None:
    """What the bundled model does not know is said before anyone asks."""
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(address)
    page.wait_for_selector("#domain >> text=synthetic scenes only")
    page.close()
