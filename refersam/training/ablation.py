"""Ablation suites: runs that each differ from one recipe in a few settings, with several seeds, and their scores."""

from __future__ import annotations

import copy
import json
import os
import re
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate.state import AcceleratorState
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from refersam.errors import field_problem
from refersam.files import WriteLock, write_atomically
from refersam.training.bundled import find_recipe
from refersam.training.charts import Point, save_line_charts, save_range_chart
from refersam.training.errors import TrainingError
from refersam.training.journal import LOG, read_log
from refersam.training.recipe import (
    apply_change,
    change_settings,
    changes_since,
    read_recipe,
    read_yaml,
    split_change,
)
from refersam.training.settings import ChangeError, SettingsError, TrainSettings
from refersam.training.trainer import Trainer

RunTrainer = Callable[[Trainer, str], dict[str, float]]
"""Function that runs a trainer and shows its progress under a name; returns the final metrics."""


class SuiteFile(BaseModel):
    """Content of a suite's YAML file."""

    model_config = ConfigDict(extra="forbid")

    recipe: str = Field(
        description="Common recipe of all runs: a path relative to the suite's folder, or the name of a recipe."
    )
    budget: dict[str, Any] = Field(default_factory=dict, description="Changes for all runs, as name.of.setting: value.")
    seeds: list[int] = Field([0, 1, 2], min_length=1, description="Seeds that each run is trained with.")
    runs: dict[str, dict[str, Any]] = Field(min_length=1, description="Changes of each run, by name of the run.")


@dataclass(frozen=True)
class Suite:
    """A suite with the settings of all runs.

    Attributes:
        runs: settings by name and seed, in the order of the file.
    """

    runs: dict[tuple[str, int], TrainSettings]

    def folder(self, out: Path, name: str, seed: int) -> Path:
        """Return the folder of a run."""
        return out / (re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") or "run") / f"seed_{seed}"


@dataclass(frozen=True)
class Summary:
    """Scores of a suite.

    Attributes:
        metric: metric by which the protocol ranks.
        scores: metrics in percent for each completed seed, by run.
        curves: (step, mean of the metric over the seeds) at the steps where all seeds were validated, by run.
    """

    metric: str
    scores: Mapping[str, Sequence[Mapping[str, float]]]
    curves: Mapping[str, Sequence[Point]] = field(default_factory=dict)

    @property
    def has_curves(self) -> bool:
        """Whether any run has validations before its end."""
        return any(len(line) > 1 for line in self.curves.values())

    @property
    def metrics(self) -> list[str]:
        """Metrics that all runs have, without Pr@X and metrics of single tags."""
        first, *others = [each for runs in self.scores.values() for each in runs]
        names = [name for name in first if not re.search(r"[/@]|^phrases|^pixels", name)]
        return [name for name in names if all(name in other for other in others)]

    def values(self, name: str, metric: str) -> tuple[float, float | None]:
        """Return mean and standard deviation over the seeds of a run; None as the deviation of a single seed."""
        values = [each[metric] for each in self.scores[name]]
        return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None

    def rows(self) -> list[list[str]]:
        """Return the table rows: name, number of seeds and metrics of each run."""
        rows = []
        for name, runs in self.scores.items():
            cells = [self.values(name, metric) for metric in self.metrics]
            shown = [f"{mean:.2f}" + ("" if spread is None else f" ± {spread:.2f}") for mean, spread in cells]
            rows.append([name, str(len(runs)), *shown])
        return rows

    def write(self, out: Path) -> None:
        """Write ablation.md, ablation.json and ablation.png; with intermediate validations also curves.png."""
        head = ["run", "seeds", *self.metrics]
        lines = ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *self.rows()]]
        text = "Mean and standard deviation over the seeds, in percent.\n\n" + "\n".join(lines) + "\n"
        write_atomically(out / "ablation.md", lambda file: file.write(text.encode()))
        raw = json.dumps({"metric": self.metric, "scores": dict(self.scores)}, indent=1)
        write_atomically(out / "ablation.json", lambda file: file.write(raw.encode()))
        values = {name: [each[self.metric] for each in runs] for name, runs in self.scores.items()}
        title = f"{self.metric}, %: seeds, mean, standard deviation; line: mean of {next(iter(values))}"
        save_range_chart(title, values, out / "ablation.png")
        if self.has_curves:
            save_line_charts({f"{self.metric}, %, over the steps: mean of the seeds": self.curves}, out / "curves.png")


def read_suite(suite: str | Path, changes: Sequence[str] = ()) -> Suite:
    """Read a suite (YAML file or bundled name), and check the settings of all runs after `changes` ("a.b=c").

    Args:
        suite: YAML file, or the name of a suite of the package.
        changes: "a.b=c" for all runs, with the highest precedence.

    Raises:
        SettingsError: no such file, or invalid settings of a run.
        ChangeError: invalid changes of a valid suite.
    """
    path = find_recipe(suite)
    try:
        plan = SuiteFile.model_validate(read_yaml(path))
    except ValidationError as error:
        raise SettingsError(f"{path}: {'; '.join(map(field_problem, error.errors()))}.") from error
    wanted = [split_change(change) for change in changes]
    if any(name == "seed" for name, _ in wanted):
        raise ChangeError(f"The seeds are set in {path}: remove --set seed.")
    base = read_recipe(find_recipe(plan.recipe, path.parent))
    runs = {}
    for name, own in plan.runs.items():
        for seed in plan.seeds:
            content = copy.deepcopy(base)
            for key, value in [*plan.budget.items(), *own.items(), ("seed", seed)]:
                apply_change(content, key, copy.deepcopy(value))
            where = f"{path}, {name}"
            runs[name, seed] = change_settings(content, wanted, where, {**plan.budget, **own})
    whole = Suite(runs)
    folders = {whole.folder(Path(), *key) for key in runs}
    if len(folders) < len(runs):
        raise SettingsError(
            f"{path}: two runs have names that differ only in punctuation or case, and would share a folder."
        )
    return whole


def run_suite(suite: Suite, out: Path, run: RunTrainer) -> Summary | None:
    """Train the runs that are not finished yet; table and plot are updated after each run.

    Args:
        suite: settings of all runs.
        out: folder of the suite.
        run: function that trains one run.

    Returns:
        The summary, or None if a signal stopped the suite.

    Raises:
        KeyboardInterrupt: after Ctrl-C, with a checkpoint.
        TrainingError: a finished run in the folder had other settings.
        DataError: another process is writing to the folder.
    """
    lock = WriteLock(out)
    if int(os.environ.get("RANK", "0")) == 0:  # of torchrun's processes
        lock.acquire()
    try:
        return _run_suite(suite, out, run)
    finally:
        lock.release()


def _run_suite(suite: Suite, out: Path, run: RunTrainer) -> Summary | None:
    for (name, seed), settings in suite.runs.items():  # before anything is trained
        _is_finished(suite.folder(out, name, seed), settings)
    for (name, seed), settings in suite.runs.items():
        folder = suite.folder(out, name, seed)
        if not _is_finished(folder, settings):
            AcceleratorState._reset_state()  # runs may differ in precision
            trainer = Trainer(settings, folder, resume=folder.exists())
            run(trainer, f"{name}, seed {seed}")
            if trainer.stopped_by:
                return None
            if trainer.accelerator.is_main_process:
                summarise_suite(suite, out).write(out)
    summary = summarise_suite(suite, out)
    summary.write(out)
    return summary


def _is_finished(folder: Path, settings: TrainSettings) -> bool:
    if not (folder / "result.json").exists():
        return False
    changes = changes_since(folder / "settings.yaml", settings)
    if changes:
        raise TrainingError(
            f"{folder} holds a finished run with other settings ({'; '.join(changes)}): choose another --out, or "
            "remove the folder."
        )
    return True


def summarise_suite(suite: Suite, out: Path) -> Summary:
    """Summarise the scores of the finished runs.

    Raises:
        TrainingError: no run is finished.
    """
    metric = ""
    scores: dict[str, list[dict[str, float]]] = defaultdict(list)
    courses: dict[str, list[dict[float, float]]] = defaultdict(list)
    for name, seed in suite.runs:
        folder = suite.folder(out, name, seed)
        if (folder / "result.json").exists():
            result = json.loads((folder / "result.json").read_text())
            metric = result["metric"]
            scores[name].append(result["metrics"])
            courses[name].append(dict(read_log(folder / LOG)["validation"][metric]))
    if not scores:
        raise TrainingError(f"No run in {out} is finished.")
    curves = {}
    for name, seeds in courses.items():
        common = sorted(set.intersection(*map(set, seeds)))
        curves[name] = [(step, statistics.fmean(each[step] for each in seeds)) for step in common]
    return Summary(metric, scores, curves)
