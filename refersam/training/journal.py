"""Files that a run writes (settings, environment, log, images, curves), and its experiment trackers."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from PIL import Image

from refersam.files import save_png, write_atomically
from refersam.training.charts import Point, save_line_charts
from refersam.training.settings import TrainSettings
from refersam.training.trackers import TensorBoard, WebTracker, open_trackers

_PANELS = {
    "loss": ("total", "mask", "dice", "coarse_mask", "coarse_dice"),
    "further terms of the loss": ("iou", "object"),
    "learning rate": ("learning rate",),
    "norm of the gradient, before clipping": ("grad norm",),
    "samples per second": ("samples/s",),
}

LOG = "log.jsonl"


class Journal:
    """Writer of a run's files; used by the main process only.

    Args:
        folder: folder of the run.
        settings: settings of the run.
    """

    def __init__(self, folder: Path, settings: TrainSettings) -> None:
        self.folder, self.settings = folder, settings
        self.log_path = folder / LOG
        self._trackers: list[TensorBoard | WebTracker] = []

    def begin(self, step: int, environment: dict[str, Any], pretrained: int = 0) -> None:
        """Write settings and environment; remove log lines after the last checkpoint.

        Args:
            step: step of the checkpoint that the run resumes from; 0 for a new run.
            environment: environment of this start.
            pretrained: number of completed pretraining steps.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        recipe = yaml.safe_dump(self.settings.model_dump(mode="json"), sort_keys=False).encode()
        write_atomically(self.folder / "settings.yaml", lambda file: file.write(recipe))
        path = self.folder / "environment.json"
        starts = json.loads(path.read_text()) if step and path.exists() else []
        text = json.dumps([*starts, {"step": step, "seed": self.settings.seed} | environment], indent=1)
        write_atomically(path, lambda file: file.write(text.encode()))
        if self.log_path.exists():
            lines = self.log_path.read_bytes().splitlines(keepends=True)
            kept = b"".join(line for line in lines if _is_kept(line, step, pretrained))
            write_atomically(self.log_path, lambda file: file.write(kept))
        self._trackers = open_trackers(self.folder, step, self.settings)

    def write(self, kind: str, step: int, samples: int, values: Mapping[str, float]) -> None:
        """Write a line of log.jsonl, and log the same values with the trackers.

        Args:
            kind: "train", "validation" or "pretraining".
            step: number of completed steps.
            samples: number of phrases processed.
            values: values by name.
        """
        rounded = {name: round(value, 5) for name, value in values.items()}
        line = {"kind": kind, "step": step, "samples": samples, "time": time.time()} | rounded
        with self.log_path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        for tracker in self._trackers:
            tracker.log({f"{kind}/{name}": value for name, value in values.items()}, step)

    def show(self, step: int, sheet: Image.Image) -> None:
        """Write a sheet of validation samples to images/, and log it with the trackers."""
        path = self.folder / "images" / f"step_{step:07d}.png"
        save_png(sheet, path)
        for tracker in self._trackers:
            tracker.show("validation", np.asarray(sheet), step)

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write the result of the finished run to result.json."""
        text = json.dumps(result, indent=1)
        write_atomically(self.folder / "result.json", lambda file: file.write(text.encode()))

    def end(self) -> None:
        """Draw the curves and close the trackers."""
        self.draw_curves()
        for tracker in self._trackers:
            tracker.finish()
        self._trackers = []

    def draw_curves(self) -> None:
        """Draw curves.png from the log; an empty log gives no file."""
        lines = read_log(self.log_path)
        train, validation = lines["train"], lines["validation"]
        panels = {title: {name: train[name] for name in names if name in train} for title, names in _PANELS.items()}
        plain = [name for name in validation if "/" not in name and "@" not in name]
        panels["validation, %"] = {n: validation[n] for n in plain if not n.startswith(("phrases", "pixels"))}
        save_line_charts(panels, self.folder / "curves.png")


def read_log(path: Path, over: Literal["step", "samples"] = "step") -> dict[str, dict[str, list[Point]]]:
    """Read a run's log: (step or samples, value) points by kind and name; empty if there is no such file."""
    lines: dict[str, dict[str, list[Point]]] = defaultdict(lambda: defaultdict(list))
    for text in path.read_text().splitlines() if path.exists() else []:
        line = json.loads(text)
        for name, value in line.items():
            if name not in ("kind", "step", "samples", "time"):
                lines[line["kind"]][name].append((line[over], value))
    return lines


def _is_kept(line: bytes, step: int, pretrained: int) -> bool:
    """Return whether a line is complete, and of a step up to the checkpoint."""
    try:
        content = json.loads(line) if line.endswith(b"\n") else {}
    except ValueError:  # truncated by a power failure
        return False
    return content.get("step", step + 1) <= step and content.get("pretraining steps", 0) <= pretrained
