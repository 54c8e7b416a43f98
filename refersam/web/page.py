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

STYLE = """
.gradio-container { max-width: 1080px !important; margin: 0 auto !important; }
#head h1 { margin: 0.2em 0 0; font-size: 1.5rem; }
#head p { margin: 0.2em 0; }
#domain { border-left: 4px solid #d6276b; padding: 0.1em 0.8em; font-size: 0.92rem; }
#domain p { margin: 0.3em 0; }
.legend { list-style: none; margin: 0; padding: 0; }
.legend li { display: flex; align-items: center; flex-wrap: wrap; gap: 0.3em 0.6em; padding: 0.45em 0;
  border-bottom: 1px solid rgba(128, 128, 128, 0.25); }
.legend .swatch { width: 1.1em; height: 1.1em; border-radius: 4px; border: 1px solid rgba(128, 128, 128, 0.6);
  flex: none; }
.legend .phrase { font-weight: 600; overflow-wrap: anywhere; }
.legend .verdict { margin-left: auto; font-variant-numeric: tabular-nums; }
.legend .verdict.none { font-style: italic; }
.legend .share { opacity: 0.75; font-size: 0.88em; }
.refused { border-left: 4px solid #b91c1c; padding: 0.3em 0.8em; overflow-wrap: anywhere; }
.legend + .time { margin: 0.7em 0 0; font-size: 0.88em; opacity: 0.75; }
#ask textarea { font-size: 1rem; }
#ask .block-info, #ask [class*="info"] { color: var(--body-text-color) !important; opacity: 0.75; }
button:focus-visible, textarea:focus-visible, input:focus-visible {
  outline: 3px solid #1669c9 !important; outline-offset: 1px; }
footer { display: none !important; }
"""

FONTS = ("system-ui", "sans-serif")
"""Of the visitor's machine: none is loaded."""

SCRIPT = """
() => document.addEventListener("keydown", event => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && event.target.closest("#ask")) {
    event.preventDefault();
    document.querySelector("#find").click();
  }
})
"""
"""Ctrl+Enter asks: gradio itself knows Shift+Enter alone."""


@dataclass(frozen=True)
class PageSettings:
    """What a visitor may ask for.

    Attributes:
        max_bytes: of a picture's file.
        max_pixels: of a picture.
        max_phrases: answered at once.
        waiting: visitors in the queue; more are turned away.
    """

    max_bytes: int = 20_000_000
    max_pixels: int = 25_000_000
    max_phrases: int = 8
    waiting: int = 32


@dataclass(frozen=True, eq=False)
class Visit:
    """What a visitor was answered last, to show it in part: masks run-length encoded, for many visits are kept.

    Attributes:
        file: the picture's.
        phrases: that were asked.
        masks: of each, in COCO's compressed run-length encoding.
    """

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
    """The functions behind the page.

    Args:
        predictors: by the names that visitors see; the first is chosen at the start.
        folder: for files to download and the examples; all in it may be deleted.
        settings: limits.
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

    def no_target_threshold(self, name: str) -> float:
        """Return the default of a model, by its name on the page."""
        return self.predictors[name].model.config.no_target_threshold

    def answer(self, file: str | None, text: str, name: str, threshold: float, no_target: float) -> list[Segmentation]:
        """Answer phrases about an uploaded picture.

        Raises:
            ReferSamError: no picture or phrase, or one that cannot be read.
        """
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
        """The picture of a visit with the masks that a choice stands for.

        Raises:
            ReferSamError: the picture has been deleted since.
        """
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


def build_page(page: Page) -> Any:
    """Lay the page out.

    Args:
        page: its functions.

    Returns:
        gradio.Blocks, to be launched with `css=STYLE`, `js=SCRIPT` and a theme of `FONTS`.

    Raises:
        MissingExtraError: gradio is not installed.
    """
    gr: Any = require("gradio", "demo", "The web page")

    def run(file: str | None, text: str, name: str, threshold: float, no_target: float) -> tuple:
        try:
            return answered(file, text, name, threshold, no_target)
        except ReferSamError as error:
            return refused(str(error))
        except Exception:  # a defect of ours: the log gets it, the visitor a sentence
            logger.exception("A visitor's question was not answered.")
            return refused(FAILED)

    def answered(file: str | None, text: str, name: str, threshold: float, no_target: float) -> tuple:
        start = time.perf_counter()
        answers = page.answer(file, text, name, threshold, no_target)
        seconds = f"<p class='time'>answered in {time.perf_counter() - start:.2f} s</p>"
        choices = [ALL, *(label(index, answer.phrase) for index, answer in enumerate(answers))]
        downloads = [gr.DownloadButton(value=path, interactive=True) for path in page.files(answers, name)]
        return (
            overlay(answers[0].image, [answer.mask for answer in answers], range(len(answers))),
            legend(answers) + seconds,
            gr.Radio(choices=choices, value=ALL, visible=len(answers) > 1),
            Visit(str(file), [answer.phrase for answer in answers], [answer.to_rle() for answer in answers]),
            *downloads,
        )

    def refused(sentence: str) -> tuple:
        warn(sentence)
        downloads = [gr.DownloadButton(value=None, interactive=False) for _ in DOWNLOADS]
        return None, refusal(sentence), gr.Radio(choices=[ALL], value=ALL, visible=False), None, *downloads

    def warn(sentence: str) -> None:
        gr.Warning(html.escape(sentence))  # a gr.Error would replace the sentence below by "Error"

    def show(visit: Visit | None, choice: str) -> Any:
        if visit is None:
            return gr.skip()
        try:
            return page.show(visit, choice)
        except ReferSamError:
            warn(DELETED)
            return gr.skip()

    names = list(page.predictors)
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, KEEP_SECONDS)) as blocks:
        visit = gr.State(None, time_to_live=KEEP_SECONDS)
        with gr.Column(elem_id="head"):
            gr.Markdown(f"# {TITLE}\nA picture and a phrase in, the mask of exactly that out.")
            if banner := domain_banner(page.predictors):
                gr.HTML(banner, elem_id="domain")
        with gr.Row():
            with gr.Column(min_width=300):
                picture = gr.Image(
                    label="Picture",
                    type="filepath",
                    image_mode=None,
                    sources=["upload", "clipboard"],
                    height=300,
                    buttons=["fullscreen"],
                )
                phrases = gr.Textbox(
                    label="What to look for",
                    info=f"One phrase a line or between ; (at most {page.settings.max_phrases}). Ctrl+Enter asks.",
                    placeholder="the orange star\nevery red object",
                    lines=3,
                    max_lines=page.settings.max_phrases,
                    max_length=2000,
                    elem_id="ask",
                )
                button = gr.Button("Find it", variant="primary", elem_id="find")
                with gr.Accordion("Model and thresholds", open=False):
                    model = gr.Dropdown(names, value=names[0], label="Model", interactive=len(names) > 1)
                    threshold = gr.Slider(
                        0.05, 0.95, 0.5, step=0.05, label="A pixel belongs to the mask from this probability"
                    )
                    no_target = gr.Slider(
                        0.0,
                        1.0,
                        page.no_target_threshold(names[0]),
                        step=0.05,
                        label="Nothing matches below this probability of a target",
                    )
            with gr.Column(min_width=300):
                result = gr.Image(
                    label="Answer",
                    format="png",
                    interactive=False,
                    height=300,
                    buttons=["fullscreen", "download"],
                    elem_id="answer",
                )
                verdicts = gr.HTML("", elem_id="answers")
                choice = gr.Radio([ALL], value=ALL, label="Show", visible=False, elem_id="choice")
                with gr.Row():
                    downloads = [
                        gr.DownloadButton(text, interactive=False, size="sm", min_width=90, elem_id=name)
                        for name, text in DOWNLOADS.values()
                    ]
        # gradio itself would open the file here, and end in "Error" where it cannot: `load_image` says why.
        picture.preprocess = uploaded_file
        inputs, outputs = [picture, phrases, model, threshold, no_target], [result, verdicts, choice, visit, *downloads]
        gr.Markdown("### Examples")
        with gr.Row():
            for number, (path, text) in enumerate(page.examples):
                with gr.Column(min_width=130, scale=1):
                    gr.Image(
                        str(path), show_label=False, interactive=False, height=110, buttons=[], container=False,
                        alt_text=f"Example {number + 1}: {text}",
                    )  # fmt: skip
                    example = gr.Button(f"Try example {number + 1}", size="sm", elem_id=f"example-{number + 1}")
                    chosen = (str(path), text)
                    example.click(
                        lambda chosen=chosen: chosen, outputs=[picture, phrases], show_progress="hidden"
                    ).then(run, inputs, outputs)
        gr.on([button.click, phrases.submit], run, inputs, outputs)
        model.input(page.no_target_threshold, model, no_target, show_progress="hidden")
        choice.input(show, [visit, choice], result, show_progress="hidden")
    blocks.queue(max_size=page.settings.waiting, default_concurrency_limit=1, api_open=False)
    return blocks
