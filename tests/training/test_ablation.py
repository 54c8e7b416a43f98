"""Small-scale suite: training, resuming, errors, and the final table and plot."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from PIL import Image

from refersam.files import LOCK
from refersam.training.ablation import Summary, read_suite, run_suite
from refersam.training.journal import LOG, read_log
from refersam.training.settings import SettingsError, TrainSettings
from refersam.training.trainer import Trainer
from refersam.training.validation import Validator

Miniature = Callable[..., TrainSettings]
RUNS = {"whole": {}, "no VLI": {"model.config.use_interactor": False}, "BCE alone": {"loss.dice_weight": 0}}


@pytest.fixture
def suite_file(tmp_path: Path, miniature: Miniature) -> Callable[..., Path]:
    """Call with fields to write a suite of three runs with two seeds and one step."""

    def write(**fields: Any) -> Path:
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(yaml.safe_dump(miniature().model_dump(mode="json")))
        path = tmp_path / "suite.yaml"
        content = {"recipe": "recipe.yaml", "budget": {"steps": 1}, "seeds": [0, 1], "runs": RUNS, **fields}
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    return write


def train(trainer: Trainer, _name: str) -> dict[str, float]:
    """Run a trainer without progress."""
    return trainer.run()


def test_runs_differ_in_the_one_thing(suite_file: Callable[..., Path], tmp_path: Path) -> None:
    """Runs differ in their own changes and in the seed; --set overrides both."""
    runs = read_suite(suite_file(), ["optimizer.learning_rate=0.5"]).runs
    assert list(runs) == [(name, seed) for name in RUNS for seed in (0, 1)]
    whole, other = runs["whole", 1], runs["BCE alone", 1]
    assert (whole.seed, whole.steps, whole.optimizer.learning_rate) == (1, 1, 0.5)
    changed = whole.model_dump()
    changed["loss"]["dice_weight"] = 0
    assert other.model_dump() == changed
    (tmp_path / "data_set.yaml").write_text("data: {root: x}")
    with pytest.raises(SettingsError, match="whole has epochs, which override steps: add --set epochs=null"):
        read_suite(suite_file(recipe="data_set.yaml"), ["epochs=2"])
    with pytest.raises(SettingsError, match="remove --set seed"):
        read_suite(suite_file(), ["seed=7"])


def test_a_suite_ends_with_table_and_plot(
    suite_file: Callable[..., Path], tmp_path: Path, run: Callable[..., SimpleNamespace]
) -> None:
    """A stopped suite resumes without repeating training, also from the command line."""
    path, out, trained = suite_file(), tmp_path / "out", []

    def interrupted(trainer: Trainer, name: str) -> dict[str, float]:
        if len(trained) == 3:
            raise KeyboardInterrupt
        trained.append(name)
        return trainer.run()

    with pytest.raises(KeyboardInterrupt):
        run_suite(read_suite(path), out, interrupted)
    assert trained == ["whole, seed 0", "whole, seed 1", "no VLI, seed 0"]
    assert "| no VLI | 1 |" in (out / "ablation.md").read_text()
    done = run("ablate", path, "--out", out)
    assert (done.code, done.err.count(" 1/1  total")) == (0, 3), done.err
    table = (out / "ablation.md").read_text()
    for name in RUNS:
        assert f"| {name} | 2 |" in table
        assert name in done.out
    assert Image.open(out / "ablation.png").size[0] > 500
    assert not (out / "curves.png").exists()
    assert (out / "no_vli" / "seed_1" / "model" / "model.safetensors").exists()

    changed = run("ablate", path, "--out", out, "--set", "steps=2")
    assert changed.code == 1
    assert "finished run with other settings (steps: 1 -> 2): choose another --out" in changed.err


def test_curves_are_means_over_the_seeds(
    suite_file: Callable[..., Path], tmp_path: Path, run: Callable[..., SimpleNamespace]
) -> None:
    """Curves of the ranking metric at every logged validation; drawn if there are several points."""
    out, runs = tmp_path / "out", {"whole": {}, "no VLI": RUNS["no VLI"]}
    path = suite_file(budget={"steps": 3, "validate_every": 1}, runs=runs)
    suite = read_suite(path)
    summary = run_suite(suite, out, train)
    assert summary is not None
    assert list(summary.curves) == ["whole", "no VLI"]
    logged = [read_log(suite.folder(out, "whole", seed) / LOG)["validation"][summary.metric] for seed in (0, 1)]
    steps, means = zip(*summary.curves["whole"], strict=True)
    assert steps == (1, 2, 3)
    assert means == pytest.approx([(one + other) / 2 for (_, one), (_, other) in zip(*logged, strict=True)])
    assert Image.open(out / "curves.png").size[0] > 500
    assert "Curves are in" in run("ablate", path, "--out", out).out


def test_mean_and_deviation_by_hand(tmp_path: Path) -> None:
    """Sample standard deviation, None for a single seed; without metrics of tags and counts."""
    scores = {"a": [{"oIoU": 10.0, "mIoU/x": 1.0, "phrases": 3}, {"oIoU": 14.0, "mIoU/x": 1.0}], "b": [{"oIoU": 5.0}]}
    summary = Summary("oIoU", scores)
    assert summary.metrics == ["oIoU"]
    assert summary.rows() == [["a", "2", "12.00 ± 2.83"], ["b", "1", "5.00"]]
    summary.write(tmp_path)
    assert "| a | 2 | 12.00 ± 2.83 |" in (tmp_path / "ablation.md").read_text()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"runs": {}}, "runs should have at least 1 item, but is "),
        ({"seeds": []}, "seeds should have at least 1 item, but is "),
        ({"recipes": "x"}, "recipes is not a field of this format"),
        ({"recipe": "nowhere.yaml"}, r"No such file: .*nowhere\.yaml"),
        ({"runs": {"odd": {"loss.dice_wait": 1}}}, r"odd: unknown setting loss\.dice_wait, did you mean dice_weight\?"),
        ({"runs": {"odd": {"steps.more": 1}}}, "'steps' is not a section"),
        ({"runs": {"a b": {}, "a-b": {}}}, "would share a folder"),
    ],
)
def test_suites_that_are_refused(suite_file: Callable[..., Path], fields: dict[str, Any], message: str) -> None:
    """The error is one sentence, raised before any training."""
    with pytest.raises(SettingsError, match=message) as caught:
        read_suite(suite_file(**fields))
    assert "\n" not in str(caught.value)


def test_a_second_suite_into_a_folder_is_refused(
    suite_file: Callable[..., Path], tmp_path: Path, run: Callable[..., SimpleNamespace]
) -> None:
    """Also between two runs of the first; the message after Ctrl-C explains how to resume."""
    path, out = suite_file(), tmp_path / "out"

    def meanwhile(trainer: Trainer, _name: str) -> dict[str, float]:
        second = run("ablate", path, "--out", out)
        assert (second.code, second.out) == (1, "")
        assert f"Another process is at work in {out}: wait for it" in second.err
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_suite(read_suite(path), out, meanwhile)
    assert not (out / LOCK).exists()


def test_ctrl_c_in_a_suite(
    suite_file: Callable[..., Path],
    tmp_path: Path,
    run: Callable[..., SimpleNamespace],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Exit code 130 and a message; the checkpoint exists."""
    score = Validator.score

    def interrupted(*arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return score(*arguments)

    monkeypatch.setattr(Validator, "score", interrupted)
    done = run("ablate", suite_file(), "--out", tmp_path / "out")
    assert done.code == 130, done.err
    assert f"The same command goes on from the newest checkpoint in {tmp_path / 'out'}/" in done.out
    assert len(list((tmp_path / "out").glob("*/seed_0/checkpoints/step_0000001.pt"))) == 1
