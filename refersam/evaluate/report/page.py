"""The report: one HTML file that opens without a network."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from refersam.evaluate.report import facts
from refersam.evaluate.report.images import choose_cases
from refersam.evaluate.run import Evaluation
from refersam.metrics.calibration import calibration
from refersam.metrics.summary import MEANINGS

_WORDS = {None: "none", True: "yes", False: "no"}


def render_report(evaluation: Evaluation, document: dict[str, Any]) -> str:
    """Return the page that shows an evaluation and what metrics.json holds, `document`."""
    loader = PackageLoader("refersam", "assets/report")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    script, style = (loader.get_source(environment, name)[0] for name in ("page.js", "page.css"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return environment.get_template("page.html").render(
        document=document,
        meanings=MEANINGS,
        settings=_flatten(document["settings"] | {"versions": document["versions"]}),
        rules=_flatten(document["protocol_settings"]),
        histogram=facts.iou_histogram(evaluation),
        breakdowns=facts.breakdowns(evaluation),
        calibration=calibration(evaluation.results),
        curve=facts.trade_off(evaluation),
        clicks=evaluation.clicks,
        cases=choose_cases(evaluation),
        verdicts=facts.VERDICTS,
        rows=_rows(evaluation),
        script=Markup(script),
        style=Markup(style),
        # No other script or style runs, whatever a phrase holds.
        policy=f"default-src 'none'; img-src data:; script-src 'sha256-{digest}'; style-src 'unsafe-inline'",
    )


def _rows(evaluation: Evaluation) -> list[list[Any]]:
    """Return (id, phrase, IoU, score, index of the verdict) of each phrase."""
    rows = []
    for position, (sample, iou) in enumerate(zip(evaluation.samples, facts.sample_ious(evaluation), strict=True)):
        number = facts.VERDICTS.index(facts.verdict(evaluation, position, iou))
        score = evaluation.predictions[position].score
        rounded = [None if value is None else round(value, 4) for value in (iou, score)]
        rows.append([sample.sample_id, sample.phrase, *rounded, number])
    return rows


def _flatten(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return nested settings as names and texts."""
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        words = f"{prefix}{name.replace('_', ' ')}"
        if isinstance(value, dict):
            rows += _flatten(value, f"{words}: ")
        elif isinstance(value, list | tuple):
            rows.append((words, ", ".join(map(str, value)) or "none"))
        else:
            rows.append((words, _WORDS[value] if value is None or isinstance(value, bool) else str(value)))
    return rows
