"""The page itself, of gradio's components."""

from __future__ import annotations

import hashlib
import html
import logging
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from PIL import Image

from refersam.errors import ReferSamError
from refersam.image import load_image
from refersam.inference.predictor import EncodedImage, ReferSamPredictor, Segmentation
from refersam.metrics.masks import decode_mask
from refersam.optional import require
from refersam.web.answers import (
    COCO_FILE,
    CUTOUT_FILE,
    LABELS_FILE,
    MASK_FILE,
    domain_banner,
    legend,
    overlay,
    refusal,
    split_phrases,
    write_files,
)
from refersam.web.examples import draw_examples

logger = logging.getLogger(__name__)

TITLE = "ReferSAM: say what to cut out"
ALL = "All"
DOWNLOADS = {
    MASK_FILE: ("mask", "Mask PNG"),
    LABELS_FILE: ("labels", "Label map"),
    CUTOUT_FILE: ("cutout", "Cut-out PNG"),
    COCO_FILE: ("coco", "COCO JSON"),
}
"""For each file to take home, its button's name in the page and what it says."""
KEEP_SECONDS = 3600
"""Files and remembered pictures of a visit are deleted after this time."""

FAILED = "The server failed to answer; its log says why."
DELETED = "This image has been deleted from the server: choose it again."

_ASSETS = resources.files("refersam") / "assets" / "web"
STYLE, SCRIPT = ((_ASSETS / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))

FONTS = ("system-ui", "sans-serif")
"""Of the visitor's machine: none is loaded."""


@dataclass(frozen=True)
class PageSettings:
    """Limits: bytes and pixels of an image, phrases per query, visitors in the queue."""

    max_bytes: int = 20_000_000
    max_pixels: int = 25_000_000
    max_phrases: int = 8
    waiting: int = 32


@dataclass(frozen=True, eq=False)
class Visit:
    """A visitor's last answers, to show some of them: image file, phrases, and masks in COCO's run lengths."""

    file: str
    phrases: list[str]
    masks: list[dict[str, Any]]

    def shown(self, choice: str) -> list[int]:
        """Numbers of the phrases that a choice stands for."""
        return [index for index, phrase in enumerate(self.phrases) if choice in (ALL, label(index, phrase))]


def label(index: int, phrase: str) -> str:
    """How a phrase is called in the choice of what to show; two alike stay two."""
    return f"{index + 1}. {phrase}"


class Page:
    """Functions behind the page: predictors by the names shown to visitors, the first selected; `folder` is for
    downloads and examples, and may be deleted.
    """

    def __init__(self, predictors: Mapping[str, ReferSamPredictor], folder: Path, settings: PageSettings) -> None:
        self.predictors, self.folder, self.settings = dict(predictors), folder, settings
        (folder / "examples").mkdir(parents=True)
        (folder / "answers").mkdir()
        self.examples = draw_examples(folder / "examples")
        self._last: tuple[tuple[str, bytes], EncodedImage] | None = None

    def warm_up(self) -> None:
        """Answer once, so that the first visitor does not wait for what is set up on first use."""
        picture, text = self.examples[0]
        for predictor in self.predictors.values():
            predictor.predict(picture, text.splitlines())

    def answer(self, file: str | None, text: str, name: str, threshold: float, no_target: float) -> list[Segmentation]:
        """Segment phrases in an uploaded image; raise ReferSamError if the image or a phrase is missing or unusable."""
        phrases = split_phrases(text or "", self.settings.max_phrases)
        if file is None:
            raise ReferSamError("Choose a picture first: drop one, or click an example below.")
        if not Path(file).is_file():
            raise ReferSamError(DELETED)
        if Path(file).stat().st_size > self.settings.max_bytes:
            raise ReferSamError(f"The picture's file is larger than {self.settings.max_bytes / 1e6:.0f} MB.")
        if name not in self.predictors:
            raise ReferSamError(f"There is no model {name!r} on this page.")
        encoded = self._look_at(Path(file).read_bytes(), name)
        return self.predictors[name].predict(encoded, phrases, threshold, no_target)

    def show(self, visit: Visit, choice: str) -> Image.Image:
        """Return the image of a visit with the chosen masks; raise ReferSamError if it has been deleted."""
        picture = load_image(visit.file, max_pixels=self.settings.max_pixels)
        masks = [decode_mask(rle) for rle in visit.masks]
        return overlay(picture, masks, visit.shown(choice))

    def _look_at(self, content: bytes, name: str) -> EncodedImage:
        """A picture as a model sees it; the last one is remembered, for further phrases about it."""
        key = (name, hashlib.sha256(content).digest())
        last = self._last
        if last is None or last[0] != key:
            picture = load_image(content, max_pixels=self.settings.max_pixels)
            self._last = last = (key, self.predictors[name].set_image(picture))
        return last[1]

    def files(self, answers: list[Segmentation], name: str) -> list[str]:
        """What `write_files` writes of a model's answers, for the download buttons, in their order."""
        self._tidy()
        folder = Path(tempfile.mkdtemp(dir=self.folder / "answers"))
        written = write_files(answers[0].image, answers, folder, self.predictors[name].domain)
        return [str(written[name]) for name in DOWNLOADS]

    def _tidy(self) -> None:
        """Delete what nobody will fetch any more."""
        for folder in (self.folder / "answers").iterdir():
            if time.time() - folder.stat().st_mtime > KEEP_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)


def uploaded_file(upload: Any) -> str | None:
    """Return the path of a file as it was uploaded, of gradio's ImageData; None without one."""
    return None if upload is None else upload.path


class _Events:
    """Answers the events of the page with updates of its components."""

    def __init__(self, page: Page, gr: Any) -> None:
        self.page, self.gr = page, gr

    def run(self, file: str | None, text: str, name: str, threshold: float, no_target: float) -> tuple:
        """Segment an image, or show why that is not possible."""
        try:
            return self._answer(file, text, name, threshold, no_target)
        except ReferSamError as error:
            return self._refuse(str(error))
        except Exception:  # a defect of ours: details for the log, a sentence for the visitor
            logger.exception("A visitor's question was not answered.")
            return self._refuse(FAILED)

    def show(self, visit: Visit | None, choice: str) -> Any:
        """Show the chosen masks of the last answer."""
        if visit is None:
            return self.gr.skip()
        try:
            return self.page.show(visit, choice)
        except ReferSamError:
            self._warn(DELETED)
            return self.gr.skip()

    def _answer(self, file: str | None, text: str, name: str, threshold: float, no_target: float) -> tuple:
        start = time.perf_counter()
        answers = self.page.answer(file, text, name, threshold, no_target)
        seconds = f"<p class='time'>answered in {time.perf_counter() - start:.2f} s</p>"
        choices = [ALL, *(label(index, answer.phrase) for index, answer in enumerate(answers))]
        paths = self.page.files(answers, name)
        return (
            overlay(answers[0].image, [answer.mask for answer in answers], range(len(answers))),
            legend(answers) + seconds,
            self.gr.Radio(choices=choices, value=ALL, visible=len(answers) > 1),
            Visit(str(file), [answer.phrase for answer in answers], [answer.to_rle() for answer in answers]),
            *(self.gr.DownloadButton(value=path, interactive=True) for path in paths),
        )

    def _refuse(self, sentence: str) -> tuple:
        self._warn(sentence)
        downloads = [self.gr.DownloadButton(value=None, interactive=False) for _ in DOWNLOADS]
        return None, refusal(sentence), self.gr.Radio(choices=[ALL], value=ALL, visible=False), None, *downloads

    def _warn(self, sentence: str) -> None:
        self.gr.Warning(html.escape(sentence))  # a gr.Error would replace the sentence below by "Error"


def build_page(page: Page) -> Any:
    """Return the page as gradio.Blocks, to be launched with `css=STYLE`, `js=SCRIPT` and a theme of `FONTS`.

    Raises MissingExtraError if gradio is not installed.
    """
    gr: Any = require("gradio", "demo", "The web page")
    events = _Events(page, gr)
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, KEEP_SECONDS)) as blocks:
        visit = gr.State(None, time_to_live=KEEP_SECONDS)
        with gr.Column(elem_id="head"):
            gr.Markdown(f"# {TITLE}\nA picture and a phrase in, the mask of exactly that out.")
            if banner := domain_banner(page.predictors):
                gr.HTML(banner, elem_id="domain")
        with gr.Row():
            with gr.Column(min_width=300):
                inputs, button = _question(page, gr)
            with gr.Column(min_width=300):
                result, verdicts, choice, downloads = _result(gr)
        outputs = [result, verdicts, choice, visit, *downloads]
        picture, phrases = inputs[:2]
        gr.Markdown("### Examples")
        with gr.Row():
            for number, (path, text) in enumerate(page.examples, 1):
                with gr.Column(min_width=130, scale=1):
                    gr.Image(
                        str(path), show_label=False, interactive=False, height=110, buttons=[], container=False,
                        alt_text=f"Example {number}: {text}",
                    )  # fmt: skip
                    example = gr.Button(f"Try example {number}", size="sm", elem_id=f"example-{number}")
                    chosen = (str(path), text)
                    example.click(
                        lambda chosen=chosen: chosen, outputs=[picture, phrases], show_progress="hidden"
                    ).then(events.run, inputs, outputs)
        gr.on([button.click, phrases.submit], events.run, inputs, outputs)
        choice.input(events.show, [visit, choice], result, show_progress="hidden")
    blocks.queue(max_size=page.settings.waiting, default_concurrency_limit=1, api_open=False)
    return blocks


def _question(page: Page, gr: Any) -> tuple[list[Any], Any]:
    """Build the image, the phrases, the model and both thresholds; and the button."""
    names, most = list(page.predictors), page.settings.max_phrases
    image_options = {"type": "filepath", "image_mode": None, "sources": ["upload", "clipboard"]}
    picture = gr.Image(label="Picture", height=300, buttons=["fullscreen"], **image_options)
    picture.preprocess = uploaded_file  # gradio would open the file, and say "Error" where it cannot
    phrases = gr.Textbox(
        label="What to look for",
        info=f"One phrase a line or between ; (at most {most}). Ctrl+Enter asks.",
        placeholder="the orange star\nevery red object",
        lines=3,
        max_lines=most,
        max_length=2000,
        elem_id="ask",
    )
    button = gr.Button("Find it", variant="primary", elem_id="find")
    with gr.Accordion("Model and thresholds", open=False):
        model = gr.Dropdown(names, value=names[0], label="Model", interactive=len(names) > 1)
        threshold = gr.Slider(0.05, 0.95, 0.5, step=0.05, label="A pixel belongs to the mask from this probability")
        no_target = gr.Slider(0.0, 1.0, 0.5, step=0.05, label="Nothing matches below this probability of a target")
    return [picture, phrases, model, threshold, no_target], button


def _result(gr: Any) -> tuple[Any, Any, Any, list[Any]]:
    """Build the overlay, the verdicts, the choice of masks and the download buttons."""
    buttons = ["fullscreen", "download"]
    result = gr.Image(label="Answer", format="png", interactive=False, height=300, buttons=buttons, elem_id="answer")
    verdicts = gr.HTML("", elem_id="answers")
    choice = gr.Radio([ALL], value=ALL, label="Show", visible=False, elem_id="choice")
    with gr.Row():
        button_options = {"interactive": False, "size": "sm", "min_width": 90}
        downloads = [gr.DownloadButton(text, elem_id=name, **button_options) for name, text in DOWNLOADS.values()]
    return result, verdicts, choice, downloads
