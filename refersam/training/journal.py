"""What a run writes down: settings, environment, log, pictures, curves; and the trackers that read along."""

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
    "samples a second": ("samples/s",),
}

LOG = "log.jsonl"


class Journal:
    """Writes into the folder of a run; used by the main process only."""

    def __init__(self, folder: Path, settings: TrainSettings) -> None:
        self.folder, self.settings = folder, settings
        self.log_path = folder / LOG
        self._trackers: list[TensorBoard | WebTracker] = []

    def begin(self, step: int, environment: dict[str, Any], pretrained: int = 0) -> None:
        """Write settings and environment; drop what a killed run logged after `step`, its last checkpoint, and after
        the `pretrained` steps before the first.
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
        """Log values by name; `kind` is "train" or "validation", `samples` the number of phrases seen."""
        rounded = {name: round(value, 5) for name, value in values.items()}
        line = {"kind": kind, "step": step, "samples": samples, "time": time.time()} | rounded
        with self.log_path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        for tracker in self._trackers:
            tracker.log({f"{kind}/{name}": value for name, value in values.items()}, step)

    def show(self, step: int, sheet: Image.Image) -> None:
        """A sheet of validation samples, into pictures/ and to the trackers."""
        path = self.folder / "pictures" / f"step_{step:07d}.png"
        save_png(sheet, path)
        for tracker in self._trackers:
            tracker.show("validation", np.asarray(sheet), step)

    def write_result(self, result: Mapping[str, Any]) -> None:
        """What the finished run came to, as result.json."""
        text = json.dumps(result, indent=1)
        write_atomically(self.folder / "result.json", lambda file: file.write(text.encode()))

    def end(self) -> None:
        """Draw the curves and close the trackers."""
        self.draw_curves()
        for tracker in self._trackers:
            tracker.finish()
        self._trackers = []

    def draw_curves(self) -> None:
        """curves.png of all that was logged; nothing where nothing was."""
        lines = read_log(self.log_path)
        train, validation = lines["train"], lines["validation"]
        panels = {title: {name: train[name] for name in names if name in train} for title, names in _PANELS.items()}
        plain = [name for name in validation if "/" not in name and "@" not in name]
        panels["validation, %"] = {n: validation[n] for n in plain if not n.startswith(("phrases", "pixels"))}
        save_line_charts(panels, self.folder / "curves.png")


def read_log(path: Path, over: Literal["step", "samples"] = "step") -> dict[str, dict[str, list[Point]]]:
    """What a run logged: by kind and name, steps or samples, and values; nothing where there is no such file."""
    lines: dict[str, dict[str, list[Point]]] = defaultdict(lambda: defaultdict(list))
    for text in path.read_text().splitlines() if path.exists() else []:
        line = json.loads(text)
        for name, value in line.items():
            if name not in ("kind", "step", "samples", "time"):
                lines[line["kind"]][name].append((line[over], value))
    return lines


def _is_kept(line: bytes, step: int, pretrained: int) -> bool:
    """Whether a line is whole, and of a step that a checkpoint holds."""
    try:
        content = json.loads(line) if line.endswith(b"\n") else {}
    except ValueError:  # what a power cut leaves of it
        return False
    return content.get("step", step + 1) <= step and content.get("pretraining steps", 0) <= pretrained
