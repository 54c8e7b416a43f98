"""The report: one HTML file that opens without a network."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib import resources
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from refersam.evaluate.report import charts, facts
from refersam.evaluate.report.pictures import choose_cases
from refersam.evaluate.run import Evaluation
from refersam.metrics.calibration import calibration
from refersam.metrics.summary import MEANINGS

_WORDS = {"None": "none", "True": "yes", "False": "no"}
_ASSETS = resources.files("refersam") / "assets" / "report"


def render_report(evaluation: Evaluation, document: dict[str, Any]) -> str:
    """The page.

    Args:
        evaluation: to show.
        document: what metrics.json holds.
    """
    script, style = (_read(name) for name in ("page.js", "page.css"))
    reliability, curve = calibration(evaluation.results), facts.trade_off(evaluation)
    environment = Environment(
        loader=DictLoader({"page": _read("page.html")}), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("page").render(
        document=document,
        meanings=MEANINGS,
        settings=_flatten(document["settings"] | {"versions": document["versions"]}),
        rules=_flatten(document["protocol_settings"]),
        histogram=Markup(charts.histogram_chart(facts.iou_histogram(evaluation))),
        breakdowns=facts.breakdowns(evaluation),
        calibration=reliability,
        calibration_chart=Markup(charts.calibration_chart(reliability)) if reliability else "",
        curve=curve,
        curve_chart=Markup(charts.trade_off_chart(curve)) if curve else "",
        clicks=evaluation.clicks,
        clicks_chart=Markup(charts.clicks_chart(evaluation.clicks)) if evaluation.clicks else "",
        cases=choose_cases(evaluation),
        verdicts=facts.VERDICTS,
        rows=Markup(_rows(evaluation)),
        script=Markup(script),
        style=Markup(style),
        # What is not this very script or style is not run, whatever a phrase may hold.
        policy=f"default-src 'none'; img-src data:; script-src '{_hash(script)}'; style-src 'unsafe-inline'",
    )


def _read(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _rows(evaluation: Evaluation) -> str:
    """[[id, phrase, IoU, score, verdict's number], ...] as JSON that cannot end the element it stands in."""
    rows = []
    for position, (sample, iou) in enumerate(zip(evaluation.samples, facts.sample_ious(evaluation), strict=True)):
        number = facts.VERDICTS.index(facts.verdict(evaluation, position, iou))
        score = evaluation.predictions[position].score
        rounded = [None if value is None else round(value, 4) for value in (iou, score)]
        rows.append([sample.sample_id, sample.phrase, *rounded, number])
    text = json.dumps(rows, separators=(",", ":"))  # ASCII: line separators are escaped
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _flatten(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as names and texts."""
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        words = f"{prefix}{name.replace('_', ' ')}"
        if isinstance(value, dict):
            rows += _flatten(value, f"{words}: ")
        elif isinstance(value, list | tuple):
            rows.append((words, ", ".join(map(str, value)) or "none"))
        else:
            rows.append((words, _WORDS[repr(value)] if repr(value) in _WORDS else str(value)))
    return rows
