"""The page as a visitor has it, in headless Chromium: `make test-browser`."""

from __future__ import annotations

import io
import json
import re
import struct
import time
import zipfile
from collections.abc import Callable, Iterator
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


def click_and_wait(page: Any, click: Callable[[], None]) -> float:
    """Do something that changes the answer's image; return the seconds until it is shown."""
    before, start = page.locator("#answer img").get_attribute("src"), time.perf_counter()
    click()
    page.wait_for_function("before => document.querySelector('#answer img').src !== before", arg=before)
    return time.perf_counter() - start


def test_clicks(address: str, browser: Any, tmp_path: Path) -> None:
    """Add, remove by the right button, by keyboard, a box, undo, clear: as `refine` answers; download the result."""
    page = browser.new_page(viewport={"width": 1200, "height": 1000}, accept_downloads=True)
    page.goto(address)
    page.set_input_files("input[type=file]", str(SCENE))
    page.wait_for_selector("img[src*='scene_1']")
    page.click("#ask textarea")
    page.keyboard.insert_text("the orange star")
    page.click("#find")
    page.wait_for_selector("#answer img")
    page.wait_for_selector("#clicks input")
    page.wait_for_timeout(500)
    image = page.locator("#answer img")
    place, width = image.bounding_box(), image.evaluate("image => image.naturalWidth")
    left, top = (place[axis] + (place[side] - width) / 2 for axis, side in (("x", "width"), ("y", "height")))

    def score() -> str:
        return str(re.search(r"score ([\d.]+)", page.inner_text("#answers"))[1])  # type: ignore[index]

    predictor = ReferSamPredictor.from_pretrained(device="cpu")
    expected = predictor.predict(SCENE, "the orange star")
    steps: list[tuple[Callable[[], None], dict[str, Any]]] = [
        (lambda: page.mouse.click(left + 100, top + 140), {"points": [(100, 140)]}),
        (
            lambda: page.mouse.click(left + 60, top + 60, button="right"),
            {"points": [(60, 60)], "point_labels": [0]},
        ),
    ]
    for click, prompts in steps:
        seconds = click_and_wait(page, click)
        assert seconds < 5  # with room for a machine that is busy
        expected = predictor.refine(expected, **prompts)
        page.wait_for_function(f"document.querySelector('#answers').innerText.includes('score {expected.score:.2f}')")
    assert page.locator("#click-kind input:checked").get_attribute("value") == "Add"
    page.wait_for_timeout(1500)  # until the files are written
    (tmp_path / "mask.png").write_bytes(download(page, "mask"))
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "mask.png")) > 0, expected.mask)
    with zipfile.ZipFile(io.BytesIO(download(page, "own-data"))) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".jsonl"))
        line = json.loads(archive.read(name))
    np.testing.assert_array_equal(coco_mask.decode(line["rle"]), expected.mask)

    click_and_wait(page, lambda: page.click("#undo"))
    page.locator("#answer button:has(img)").focus()
    page.keyboard.press("Shift+ArrowLeft")  # to 0.4, 0.5 of the image
    click_and_wait(page, lambda: page.keyboard.press("Enter"))
    assert page.locator("#cross").is_visible()
    click_and_wait(page, lambda: page.keyboard.press("Backspace"))
    page.locator("#click-kind input").nth(2).check()
    click_and_wait(page, lambda: page.mouse.click(left + 30, top + 90))  # one corner
    click_and_wait(page, lambda: page.mouse.click(left + 70, top + 130))
    click_and_wait(page, lambda: page.click("#clear"))
    assert score() == f"{predictor.predict(SCENE, 'the orange star').score:.2f}"
    page.close()


def test_a_click_needs_one_phrase(address: str, browser: Any) -> None:
    """With all phrases shown, a click asks to choose one; on a phone everything fits."""
    page = browser.new_page(viewport={"width": 390, "height": 844}, has_touch=True)
    page.goto(address)
    page.click("#example-1")
    page.wait_for_selector("#answers .legend li")
    page.wait_for_selector("#clicks input")
    page.locator("#answer img").tap()
    page.wait_for_selector("text=Choose one phrase")
    page.locator("#choice input").nth(1).check()
    page.wait_for_timeout(500)
    click_and_wait(page, lambda: page.locator("#answer img").tap())
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.close()


def test_mistakes_and_a_phone(address: str, browser: Any) -> None:
    """Nothing wider than the screen of a phone; a question without an image names what is missing."""
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(address)
    page.click("#ask textarea")
    page.keyboard.insert_text("the star")
    page.click("#find")
    page.wait_for_selector("text=Choose an image first")
    page.click("#example-2")
    page.wait_for_selector("#answers .legend li")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.close()


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("photo.heic", struct.pack(">I", 24) + b"ftypheic" + bytes(4) + b"mif1heic" + bytes(100), "image"),
        ("text.png", b"no image", "not an image"),
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
