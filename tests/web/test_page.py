"""The functions behind the page, its guard, and that it can be built where gradio is installed."""

from __future__ import annotations

import asyncio
import html
import json
import os
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from refersam import ReferSamPredictor
from refersam.domain import domain_warning
from refersam.errors import ReferSamError
from refersam.web.answers import FILES, colour_of, domain_banner
from refersam.web.guard import MAX_BYTES, RefuseLinks
from refersam.web.layout import build_page
from refersam.web.page import KEEP_SECONDS, Page, PageSettings
from refersam.web.visits import ALL


@pytest.fixture(scope="module")
def predictor() -> ReferSamPredictor:
    """The bundled model."""
    return ReferSamPredictor.from_pretrained(device="cpu")


@pytest.fixture
def page(predictor: ReferSamPredictor, tmp_path: Path) -> Page:
    """A page of small limits."""
    return Page(
        {"box": predictor}, tmp_path / "page", PageSettings(max_bytes=100_000, max_pixels=200_000, max_phrases=3)
    )


def test_answers_are_the_predictors(page: Page, predictor: ReferSamPredictor) -> None:
    """The same masks, at the thresholds that were set; all files are written."""
    path, text = page.examples[0]
    visit = page.ask(str(path), "the star; the star", "box", 0.4, 0.0)
    expected = predictor.predict(path, ["the star", "the star"], 0.4, 0.0)
    for ours, theirs in zip(page.answers(visit), expected, strict=True):
        np.testing.assert_array_equal(ours.mask, theirs.mask)
    assert len(text.splitlines()) == 3
    assert [Path(file).name for file in page.files(visit)] == list(FILES)


def test_all_phrases_or_one_are_shown(page: Page, tmp_path: Path) -> None:
    """Two equal phrases stay two choices; a deleted image is a sentence."""
    path = tmp_path / "image.png"
    path.write_bytes(page.examples[0][0].read_bytes())
    visit = page.ask(str(path), "the star; the star", "box", 0.4, 0.0)
    assert visit.labels() == [ALL, "1. the star", "2. the star"]
    assert (visit.shown(ALL), visit.shown("2. the star")) == ([0, 1], [1])
    np.testing.assert_array_equal(
        np.asarray(page.show(visit, "2. the star")), np.asarray(page.answers(visit)[1].overlay(colour_of(1)))
    )
    path.unlink()
    with pytest.raises(ReferSamError, match="has been deleted"):
        page.show(visit, ALL)


def test_wrong_questions_are_a_sentence(page: Page, tmp_path: Path) -> None:
    """Each says what to do."""
    path = str(page.examples[0][0])
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "large.png").write_bytes(b"x" * 100_001)
    Image.new("RGB", (600, 400)).save(tmp_path / "wide.png")
    for arguments, message in (
        ((None, "a star", "box"), "Choose an image first"),
        ((str(tmp_path / "deleted.png"), "a star", "box"), "has been deleted"),
        ((path, "", "box"), "Type what to look for"),
        ((path, "a;b;c;d", "box"), "at most 3"),
        ((path, "a star", "../box"), "no model"),
        ((str(tmp_path / "text.png"), "a star", "box"), "image"),
        ((str(tmp_path / "large.png"), "a star", "box"), "larger than"),
        ((str(tmp_path / "wide.png"), "a star", "box"), "600 x 400 pixels, more than the limit"),
    ):
        with pytest.raises(ReferSamError, match=message):
            page.answers(page.ask(*arguments, 0.5, 0.5))


def test_the_domain_is_on_the_page(page: Page, predictor: ReferSamPredictor, tiny_model_folder: Path) -> None:
    """A banner for each model that has one, quoted as text; and in the JSON file."""
    general = ReferSamPredictor.from_pretrained(tiny_model_folder, device="cpu")
    assert domain_banner({"general": general}) == ""
    banner = domain_banner({"general": general, "<b>": predictor, "box": predictor})
    assert banner == f"<p><strong>&lt;b&gt;, box</strong>: {html.escape(domain_warning('synthetic scenes'))}</p>"
    files = page.files(page.ask(str(page.examples[0][0]), "the star", "box", 0.5, 0.5))
    (document,) = (json.loads(Path(file).read_text()) for file in files if file.endswith("answers.json"))
    assert document["info"] == {"domain": "synthetic scenes"}


def test_old_files_are_deleted(page: Page) -> None:
    """With the next answer, an hour later."""
    visit = page.ask(str(page.examples[0][0]), "the star", "box", 0.5, 0.5)
    old = Path(page.files(visit)[0]).parent
    os.utime(old, (time.time() - KEEP_SECONDS - 5,) * 2)
    new = Path(page.files(visit)[0]).parent
    assert not old.exists()
    assert new.exists()


def ask(body: bytes, kind: bytes = b"application/json") -> tuple[int, list[bytes]]:
    """Status, and what came through the guard, of a POST that arrives in two parts."""
    came: list[bytes] = []
    sent: list[dict[str, Any]] = []
    parts = [{"type": "http.request", "body": body[:7], "more_body": True}, {"type": "http.request", "body": body[7:]}]

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        more = True
        while more:
            message = await receive()
            came.append(message["body"])
            more = message.get("more_body", False)
        await send({"type": "http.response.start", "status": 200})

    async def receive() -> dict[str, Any]:
        return parts.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", kind)]}
    asyncio.run(RefuseLinks(app)(scope, receive, send))
    return sent[0]["status"], came


def test_links_in_place_of_files_are_refused() -> None:
    """Wherever they are in a question; a question as the page asks it comes through as it was."""
    good = json.dumps(
        {"data": [{"path": "/tmp/a.png", "url": "http://127.0.0.1/file=/tmp/a.png"}, "http://in.a/phrase"]}
    )
    assert ask(good.encode()) == (200, [good.encode()])
    for path in ("http://example.org/a.png", "https://example.org/a.png", "file:///etc/passwd"):
        assert ask(json.dumps({"data": [[{"deep": {"path": path}}]]}).encode()) == (400, [])
    assert ask(b'{"data": "' + b"x" * MAX_BYTES + b'"}') == (413, [])
    status, came = ask(b"not json at all")
    assert (status, b"".join(came)) == (200, b"not json at all")
    status, came = ask(b'{"path": "http://a"}', b"multipart/form-data")
    assert (status, b"".join(came)) == (200, b'{"path": "http://a"}')


@pytest.mark.parametrize(
    "kind", [b"application/x+json", b"Application/JSON", b" application/json", b"text/plain", b"", b"multipart/mixed"]
)
def test_links_under_another_content_type(kind: bytes) -> None:
    """Whatever may be read as JSON after all."""
    assert ask(b'{"path": "http://169.254.169.254/x"}', kind) == (400, [])


def test_a_refused_file_leaves_its_sentence(page: Page, tmp_path: Path) -> None:
    """Gradio hands any file on unread; what the page shows is the error's own sentence, and no answer of before."""
    pytest.importorskip("gradio")
    import gradio as gr
    from gradio.data_classes import ImageData

    blocks = build_page(page)
    run = next(each for each in blocks.fns.values() if each.fn.__name__ == "run")
    upload = run.inputs[0]
    parts = ((b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0)), (b"IDAT", zlib.compress(bytes(9))))
    wide = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    contents = {
        "text.txt": (b"no image", "not an image"),
        "photo.heic": (struct.pack(">I", 24) + b"ftypheic" + bytes(4) + b"mif1heic", "image"),
        "wide.png": (b"\x89PNG\r\n\x1a\n" + wide, "too large"),
        "<b>.png": (b"", "not an image"),
    }
    for name, (content, sentence) in contents.items():
        (tmp_path / name).write_bytes(content)
        file = upload.preprocess(ImageData(path=str(tmp_path / name), orig_name=name))
        with pytest.warns(UserWarning, match=sentence):  # outside of a server
            image, verdicts, _choice, visit, _tools = run.fn(file, "a star", "box", 0.5, 0.5)
        assert (image, visit) == (None, None)
        assert sentence in verdicts
        assert 'role="alert"' in verdicts
    write = next(each for each in blocks.fns.values() if each.fn.__name__ == "write")
    downloads = write.fn(None)
    assert all(isinstance(button, gr.DownloadButton) and not button.interactive for button in downloads)
    assert upload.preprocess(None) is None


def test_the_page_can_be_built(page: Page) -> None:
    """Where gradio is installed; the command's own test is in test_browser.py."""
    pytest.importorskip("gradio")
    blocks = build_page(page)
    kinds = [type(block).__name__ for block in blocks.blocks.values()]
    assert kinds.count("DownloadButton") == len(FILES)
    assert kinds.count("Image") == 2 + len(page.examples)
