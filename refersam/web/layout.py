"""Layout and event handlers of the page, in gradio components."""

from __future__ import annotations

import html
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from refersam.errors import ReferSamError
from refersam.optional import require
from refersam.web.answers import FILES, domain_banner, legend, refusal
from refersam.web.page import KEEP_SECONDS, Page
from refersam.web.visits import ALL, Kind, Visit

logger = logging.getLogger(__name__)

TITLE = "ReferSAM: name what to segment"
FAILED = "The server failed to answer; see its log."
CLICKS: dict[str, Kind] = {"Add": "add", "Remove": "remove", "Box": "box"}
"""Kinds of clicks on the answer, by their names on the page."""

_ASSETS = Path(__file__).parents[1] / "assets" / "web"
STYLE = (_ASSETS / "page.css").read_text(encoding="utf-8")
SCRIPT = (_ASSETS / "page.js").read_text(encoding="utf-8")
FONTS = ("system-ui", "sans-serif")
"""System fonts only; no font is downloaded."""


def uploaded_file(upload: Any) -> str | None:
    """Return the path of an uploaded file from gradio's ImageData; None without a file."""
    return None if upload is None else upload.path


def build_page(page: Page) -> Any:
    """Build the page.

    Args:
        page: functions of the page.

    Returns:
        gradio.Blocks; launch them with `css=STYLE`, `js=SCRIPT` and a theme of `FONTS`.

    Raises:
        MissingExtraError: gradio is not installed.
    """
    gr: Any = require("gradio", "demo", "The web page")
    handlers = Handlers(page, gr)
    names = list(page.predictors)
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, KEEP_SECONDS)) as blocks:
        visit = gr.State(None, time_to_live=KEEP_SECONDS)
        with gr.Column(elem_id="head"):
            gr.Markdown(f"# {TITLE}\nAn image and a phrase in, the mask of exactly that out.")
            if banner := domain_banner(page.predictors):
                gr.HTML(banner, elem_id="domain")
        with gr.Row():
            with gr.Column(min_width=300):
                image = gr.Image(
                    label="Image",
                    type="filepath",
                    image_mode=None,
                    sources=["upload", "clipboard"],
                    height=300,
                    buttons=["fullscreen"],
                )
                phrases = gr.Textbox(
                    label="Phrases",
                    info=f"One phrase a line or between ; (at most {page.settings.max_phrases}). Ctrl+Enter: segment.",
                    placeholder="the orange star\nevery red object",
                    lines=3,
                    max_lines=page.settings.max_phrases,
                    max_length=2000,
                    elem_id="ask",
                )
                button = gr.Button("Segment", variant="primary", elem_id="find")
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
                with gr.Row(visible=False, elem_id="clicks") as tools:
                    kind = gr.Radio(
                        list(CLICKS),
                        value="Add",
                        label="A click on the answer",
                        info="Right button: removes. Keyboard: arrows, Enter, Delete. A box: two corners.",
                        elem_id="click-kind",
                        min_width=220,
                    )
                    undo = gr.Button("Undo", size="sm", min_width=70, elem_id="undo")
                    clear = gr.Button("Clear", size="sm", min_width=70, elem_id="clear")
                verdicts = gr.HTML("", elem_id="answers")
                choice = gr.Radio([ALL], value=ALL, label="Show", visible=False, elem_id="choice")
                with gr.Row():
                    downloads = [
                        gr.DownloadButton(text, interactive=False, size="sm", min_width=90, elem_id=name)
                        for name, text in FILES.values()
                    ]
        # gradio would open the file here and show only "Error" on failure; errors of `load_image` are precise.
        image.preprocess = uploaded_file
        questions, outputs = [image, phrases, model, threshold, no_target], [result, verdicts, choice, visit, tools]
        one = {"concurrency_id": "model", "concurrency_limit": 1}
        quick = {**one, "show_progress": "hidden"}
        asked = [gr.on([button.click, phrases.submit], handlers.run, questions, outputs, **one)]
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
                    chosen_event = example.click(
                        lambda chosen=chosen: chosen, outputs=[image, phrases], show_progress="hidden"
                    )
                    asked.append(chosen_event.then(handlers.run, questions, outputs, **one))
        shown, corrected = [visit, choice], [result, verdicts, visit]

        def click(visit, choice, kind, event):  # type: ignore[no-untyped-def]
            return handlers.click(visit, choice, kind, event.index)

        click.__annotations__["event"] = gr.SelectData  # gradio selects the argument by this type
        model.input(page.no_target_threshold, model, no_target, show_progress="hidden")
        choice.input(handlers.show, shown, result, **quick)
        asked += [
            result.select(click, [*shown, kind], corrected, **quick),
            undo.click(handlers.undo, shown, corrected, **quick),
            clear.click(handlers.clear, shown, corrected, **quick),
        ]
        for event in asked:  # show the answer before writing its files
            event.then(handlers.write, visit, downloads, **quick)
    blocks.queue(max_size=page.settings.waiting, default_concurrency_limit=1, api_open=False)
    return blocks


class Handlers:
    """Event handlers of the page. Each returns new component values; errors are shown as messages.

    Args:
        page: functions of the page.
        gr: the gradio module.
    """

    def __init__(self, page: Page, gr: Any) -> None:
        self.page, self.gr = page, gr

    def run(self, file: str | None, text: str, model: str, threshold: float, no_target: float) -> tuple:
        """Answer a request; return image, verdicts, choice of phrases, visit, and the click tools."""
        gr, start = self.gr, time.perf_counter()
        try:
            visit = self.page.ask(file, text, model, threshold, no_target)
            image, verdicts = self._drawn(visit, ALL, start)
        except ReferSamError as error:
            return self._refused(str(error))
        except Exception:  # a bug: details go to the log, not to the page
            logger.exception("A request of the page failed.")
            return self._refused(FAILED)
        radio = gr.Radio(choices=visit.labels(), value=ALL, visible=len(visit.phrases) > 1)
        return image, verdicts, radio, visit, gr.Row(visible=True)

    def show(self, visit: Visit | None, choice: str) -> Any:
        """Return the image with one phrase or all phrases."""
        return self._changed(visit, lambda old: old, choice)[0]

    def click(self, visit: Visit | None, choice: str, kind: str, place: Sequence[int]) -> tuple:
        """Correct an answer by a click at (x, y) in pixels of the image; return image, verdicts, visit."""
        return self._changed(visit, lambda old: old.click(old.chosen(choice), CLICKS[kind], *place), choice)

    def undo(self, visit: Visit | None, choice: str) -> tuple:
        """Undo the last correction; return image, verdicts, visit."""
        return self._changed(visit, lambda old: old.undo(old.chosen(choice)), choice)

    def clear(self, visit: Visit | None, choice: str) -> tuple:
        """Remove all corrections of a phrase; return image, verdicts, visit."""
        return self._changed(visit, lambda old: old.clear(old.chosen(choice)), choice)

    def write(self, visit: Visit | None) -> list:
        """Write the files of a visit; return the download buttons."""
        paths: list[str | None] = [None] * len(FILES)
        with suppress(ReferSamError):  # the image has been deleted in the meantime
            paths = paths if visit is None else [*self.page.files(visit)]
        return [self.gr.DownloadButton(value=path, interactive=path is not None) for path in paths]

    def _changed(self, visit: Visit | None, change: Callable[[Visit], Visit], choice: str) -> tuple:
        """Return image, verdicts and visit after a change; skip the updates after an error."""
        start = time.perf_counter()
        try:
            if visit is not None:
                new = change(visit)
                return *self._drawn(new, choice, start), new
        except ReferSamError as error:
            self._warn(str(error))
        except Exception:
            logger.exception("A click on the page failed.")
            self._warn(FAILED)
        return (self.gr.skip(),) * 3

    def _drawn(self, visit: Visit, choice: str, start: float) -> tuple[Any, str]:
        image, verdicts = self.page.show(visit, choice), legend(self.page.answers(visit))
        return image, f"{verdicts}<p class='time'>answered in {time.perf_counter() - start:.2f} s</p>"

    def _refused(self, sentence: str) -> tuple:
        gr = self.gr
        self._warn(sentence)
        radio = gr.Radio(choices=[ALL], value=ALL, visible=False)
        return None, refusal(sentence), radio, None, gr.Row(visible=False)

    def _warn(self, sentence: str) -> None:
        self.gr.Warning(html.escape(sentence))  # gr.Error would replace the message in the page by "Error"
