"""`refersam evaluate` as its user meets it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

Run = Callable[..., SimpleNamespace]


@pytest.fixture
def arguments(scenes_root: Path) -> list[object]:
    return ["evaluate", "--data-root", scenes_root, "--dataset", "sceneref", "--split", "val", "--workers", "0"]


def test_three_files_and_a_table(run: Run, arguments: list[object], tiny_model_folder: Path, tmp_path: Path) -> None:
    """The data set's own protocol, both IoUs, and everything the numbers depend on."""
    result = run(*arguments, "--model", tiny_model_folder, "--device", "cpu", "--out", "out", "--limit", 9)
    assert result.code == 0, result.err
    assert "Protocol sceneref, sceneref" in result.out
    assert "9 phrases" in result.out
    for name in ("oIoU", "mIoU", "Pr@0.5", "Pr@0.9", "N-acc", "false alarms"):
        assert re.search(rf"{name} +│ +\d+\.\d\d", result.out), name
    assert sorted(path.name for path in Path("out").iterdir()) == ["metrics.json", "predictions.jsonl", "report.html"]
    document = json.loads(Path("out/metrics.json").read_text())
    assert document["protocol"] == "sceneref"
    assert document["counts"]["phrases"] == len(Path("out/predictions.jsonl").read_text().splitlines()) == 9
    assert document["settings"]["model"] == str(tiny_model_folder)
    assert {"limit", "batch_size", "device", "dtype", "max_text_tokens", "split_by"} <= document["settings"].keys()
    assert {"refersam", "torch", "transformers", "pycocotools"} <= document["versions"].keys()
    assert document["protocol_settings"]["cut"] == {"scale": "logit", "threshold": 0.0, "inclusive": True}

    again = run(*arguments, "--predictions", "out/predictions.jsonl", "--out", "again", "--limit", 9)
    assert again.code == 0, again.err
    second = json.loads(Path("again/metrics.json").read_text())
    for key in ("metrics", "sums", "mean_iou_by_tag", "protocol_settings"):
        assert second[key] == document[key]
    assert Path("again/predictions.jsonl").read_bytes() == Path("out/predictions.jsonl").read_bytes()

    other = run(
        *arguments, "--predictions", "out/predictions.jsonl", "--out", "gres", "--limit", 9, "--protocol", "gres"
    )
    assert other.code == 0, other.err
    assert "Protocol gres" in other.out
    assert list(json.loads(Path("gres/metrics.json").read_text())["metrics"])[:2] == ["gIoU", "cIoU"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--protocol", "lavt"], "lavt has no rule for phrases without a target"),
        (["--predictions", "none.jsonl"], r"No such file: none\.jsonl"),
        (["--out", "a file"], "a file is a file: --out names a folder"),
        (["--model", "nowhere/at/all"], "No such model"),
        (["--max-text-tokens", "100000"], "--max-text-tokens is 100000, but the model has room for"),
    ],
)
def test_one_sentence(run: Run, arguments: list[object], options: list[str], sentence: str) -> None:
    """Code 1, no traceback, nothing written."""
    Path("a file").write_text("")
    result = run(*arguments, "--out", "out", *options)
    assert result.code == 1, result
    assert result.err.startswith("Error: ")
    assert "Traceback" not in result.err
    assert re.search(sentence, result.err)
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--predictions", "x", "--model", "y"], "--model is about a model, and --predictions is given"),
        (["--predictions", "x", "--no-target-threshold", "0.5"], "--no-target-threshold is about a model"),
        (
            ["--protocol", "ref-zom", "--min-pixels", "50"],
            "--min-pixels has a meaning for the protocol gres or sceneref",
        ),
        (["--no-target-threshold", "2"], "'--no-target-threshold'"),
        (["--limit", "0"], "'--limit'"),
        (["--batch-size", "0"], "'--batch-size'"),
    ],
)
def test_usage(run: Run, arguments: list[object], options: list[str], sentence: str) -> None:
    """Code 2: options without effect are reported, not ignored."""
    result = run(*arguments, *options)
    assert result.code == 2, result
    assert sentence in " ".join(result.err.replace("│", " ").split())
    assert not Path("out").exists()


def test_least_pixels_need_a_protocol_that_judges(run: Run, tmp_path: Path) -> None:
    """Also where the data set chooses it: own data with a target for every phrase goes by the original one."""
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    sample = {"image": "a.png", "phrase": "x", "polygons": [[2, 3, 12, 3, 12, 13]]}
    (tmp_path / "val.jsonl").write_text(json.dumps(sample))
    own = ["evaluate", "--data-root", tmp_path, "--dataset", "jsonl", "--split", "val", "--workers", 0]
    result = run(*own, "--min-pixels", 50)
    assert result.code == 2, result
    assert "not for original" in " ".join(result.err.replace("│", " ").split())


def test_broken_predictions_leave_nothing(run: Run, arguments: list[object]) -> None:
    """What was there stays."""
    Path("out").mkdir()
    Path("out/metrics.json").write_text("old")
    Path("bad.jsonl").write_text('{"sample_id": "1"}\n{\n')
    result = run(*arguments, "--predictions", "bad.jsonl", "--out", "out")
    assert result.code == 1
    assert "line 2: not JSON" in result.err
    assert [path.name for path in Path("out").iterdir()] == ["metrics.json"]
    assert Path("out/metrics.json").read_text() == "old"


def test_a_second_evaluation_into_a_folder_is_refused(
    run: Run, arguments: list[object], tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the first is at work; its files would be of two evaluations."""
    from refersam.evaluate import output

    write = output.write_evaluation
    command = [*arguments, "--model", tiny_model_folder, "--device", "cpu", "--out", "out", "--limit", 1]

    def meanwhile(*given: Any) -> Any:
        monkeypatch.setattr(output, "write_evaluation", write)
        second = run(*command)
        assert (second.code, second.out) == (1, "")
        assert "Another process is at work in out: wait for it, or name another folder." in second.err
        return write(*given)

    monkeypatch.setattr(output, "write_evaluation", meanwhile)
    assert run(*command).code == 0
    assert sorted(path.name for path in Path("out").iterdir()) == ["metrics.json", "predictions.jsonl", "report.html"]


INTERRUPTED = """
import os, signal, time
from refersam.evaluate import run
from refersam.cli import main

run_batch = run._run_batch

def interrupted(*arguments):
    os.killpg(0, signal.SIGINT)
    time.sleep(0.3)
    return run_batch(*arguments)

run._run_batch = interrupted
main()
"""


def test_ctrl_c_while_workers_decode(arguments: list[object], tiny_model_folder: Path, tmp_path: Path) -> None:
    """Code 130, no traceback of any process, no folder."""
    options = ["--workers", "2", "--model", tiny_model_folder, "--device", "cpu", "--out", tmp_path / "out"]
    command = [sys.executable, "-c", INTERRUPTED, *map(str, [*arguments[:-2], *options])]
    done = subprocess.run(command, capture_output=True, text=True, start_new_session=True)
    assert (done.returncode, "Traceback" in done.stderr) == (130, False), done.stderr
    assert not (tmp_path / "out").exists()
