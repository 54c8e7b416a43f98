"""docs/label_and_train.md as its reader runs it: the bundled model labels scenes, a student learns from the labels."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from refersam.metrics.masks import encode_mask
from sceneref import SceneRefSettings
from sceneref.benchmark import generate_scene
from sceneref.colours import COLOURS

PAGE = Path(__file__).parents[1] / "docs" / "label_and_train.md"
COMMANDS = re.search(r"^```\n(refersam segment-many .*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
SCENES = SceneRefSettings(width=128, height=128, max_objects=4, difficulty=0.25, patterned=0.0)
IMAGES, HELD_OUT = 400, 60


def call(*words: str, folder: Path) -> None:
    """Run `refersam` with all cores, as a user does."""
    done = subprocess.run(
        [sys.executable, "-m", "refersam", *words], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (words, done.stdout[-2000:], done.stderr[-2000:])


def draw(folder: Path) -> None:
    """Render scenes into photos/, and others with their true masks into held_out/; write phrases.txt."""
    phrases = {f"all the {colour} objects": colour for colour in COLOURS}
    (folder / "phrases.txt").write_text("\n".join(phrases))
    for name in ("photos", "held_out"):
        (folder / name).mkdir()
    for index in range(IMAGES):
        Image.fromarray(generate_scene(SCENES, "train", 0, index).image).save(folder / "photos" / f"{index}.png")
    lines = []
    for index in range(HELD_OUT):
        scene = generate_scene(SCENES, "val", 0, index)
        Image.fromarray(scene.image).save(folder / "held_out" / f"{index}.png")
        for phrase, colour in phrases.items():
            named = [mask for item, mask in zip(scene.objects, scene.masks, strict=True) if item.colour == colour]
            if named:
                rle = encode_mask(np.any(named, axis=0))
                lines.append({"image": f"{index}.png", "phrase": phrase, "rle": rle})
    (folder / "held_out" / "test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def score(folder: Path, *model: str) -> float:
    """Return the mIoU on the held-out scenes in percent."""
    data = ("--data-root", "held_out", "--dataset", "jsonl", "--split", "test", "--protocol", "sceneref")
    call("evaluate", *data, *model, "--out", "results", folder=folder)
    return float(json.loads((folder / "results" / "metrics.json").read_text())["metrics"]["mIoU"])


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_student_learns_from_labels(tmp_path: Path) -> None:
    """At least 0.6 of the teacher's mIoU on scenes that neither has labels of, from random weights."""
    assert COMMANDS is not None
    label, check, train = (shlex.split(line)[1:] for line in COMMANDS[1].splitlines())
    draw(tmp_path)
    place = label.index("--model")
    call(*label[:place], *label[place + 2 :], "--batch-size", "12", folder=tmp_path)
    call(*check, folder=tmp_path)
    changes = ("data.image_size=64", "data.augment.crop=0", "epochs=null", "steps=600")
    call(*train, *(word for change in changes for word in ("--set", change)), folder=tmp_path)
    teacher, student = score(tmp_path), score(tmp_path, "--model", "runs/mine/model")
    assert teacher > 90
    assert student >= 0.6 * teacher, (student, teacher)
