"""Several answers as one map, or as detections of supervision."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from refersam.errors import MissingExtraError
from refersam.inference.answers import Answer
from refersam.inference.labels import label_map, to_supervision


def answer(phrase: str, probability: list[list[float]], score: float = 0.5, no_target: bool = False) -> Answer:
    """With the mask that follows from its probability."""
    values = np.array(probability, np.float32)
    return Answer(phrase, (values >= 0.5) & (not no_target), values, score, no_target)


LEFT = answer("left", [[0.9, 0.6, 0.1], [0.9, 0.6, 0.1]], score=0.8)
RIGHT = answer("right", [[0.1, 0.7, 0.9], [0.1, 0.5, 0.9]], score=0.7)
ABSENT = answer("absent", [[0.9, 0.9, 0.9], [0.9, 0.9, 0.9]], score=0.1, no_target=True)


def test_label_map() -> None:
    """Where masks overlap, the more probable phrase wins, the first of two equal ones; an absent one has no pixel."""
    labels = label_map([LEFT, ABSENT, RIGHT])
    assert labels.dtype == np.uint16
    assert labels.tolist() == [[1, 3, 3], [1, 1, 3]]
    with pytest.raises(ValueError, match="at least one answer"):
        label_map([])
    with pytest.raises(ValueError, match="about one image"):
        label_map([LEFT, answer("x", [[0.9]])])


def test_detections() -> None:
    """One for each mask that is not empty, with the phrase's place as its class; supervision draws and counts them."""
    sv = pytest.importorskip("supervision", reason="pip install '.[supervision]'")
    found = to_supervision([LEFT, ABSENT, RIGHT])
    assert isinstance(found, sv.Detections)
    assert found.xyxy.tolist() == [[0, 0, 2, 2], [1, 0, 3, 2]]
    assert found.mask.tolist() == [LEFT.mask.tolist(), RIGHT.mask.tolist()]
    assert found.class_id.tolist() == [0, 2]
    assert found.confidence == pytest.approx([0.8, 0.7])
    assert found["class_name"].tolist() == ["left", "right"]
    assert found.area.tolist() == [4, 4]
    assert found[found.confidence > 0.75]["class_name"].tolist() == ["left"]
    scene = np.zeros((2, 3, 3), np.uint8)
    drawn = sv.MaskAnnotator(color=sv.Color.RED, opacity=1).annotate(scene.copy(), found)
    assert (drawn.any(axis=2) == (LEFT.mask | RIGHT.mask)).all()
    merged = sv.Detections.merge([found, to_supervision([ABSENT])])
    assert len(merged) == 2


def test_no_detection_has_the_shape_of_some() -> None:
    """Where nothing matches: empty arrays of the same types, which annotate, filter and merge."""
    sv = pytest.importorskip("supervision", reason="pip install '.[supervision]'")
    none, some = to_supervision([ABSENT]), to_supervision([LEFT, ABSENT])
    assert len(none) == 0
    assert none.mask.shape == (0, 2, 3)
    assert none.xyxy.shape == (0, 4)
    assert none["class_name"].tolist() == none.area.tolist() == []
    for name in ("xyxy", "mask", "confidence", "class_id"):
        assert getattr(none, name).dtype == getattr(some, name).dtype
    assert none["class_name"].dtype.kind == some["class_name"].dtype.kind == "U"
    assert some[some.confidence > 2].mask.shape == none.mask.shape
    scene = np.zeros((2, 3, 3), np.uint8)
    assert not sv.MaskAnnotator().annotate(scene.copy(), none).any()
    assert sv.Detections.merge([none, some])["class_name"].tolist() == ["left"]
    with pytest.raises(ValueError, match="at least one answer"):
        to_supervision([])


def test_without_supervision_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence."""
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(MissingExtraError, match=r"pip install '\.\[supervision\]'"):
        to_supervision([LEFT])


@pytest.mark.parametrize("found", [True, False])
def test_the_readmes_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: bool) -> None:
    """As it stands in docs/python.md, and with phrases that match nothing."""
    pytest.importorskip("supervision", reason="pip install '.[supervision]'")
    root = Path(__file__).parents[2]
    text = (root / "docs" / "python.md").read_text()
    code = text.split("## supervision")[1].split("```python\n")[1].split("```")[0]
    if not found:
        code = code.replace('scene_1.png", phrases)', 'scene_1.png", phrases, no_target_threshold=1.0)')
        assert "no_target_threshold" in code
    monkeypatch.chdir(tmp_path)
    exec(code.replace("examples/", f"{root}/examples/"), {})
    with Image.open("annotated.png") as drawn, Image.open(root / "examples" / "scene_1.png") as scene:
        assert drawn.size == scene.size
        assert (np.asarray(drawn) != np.asarray(scene.convert("RGB"))).any() == found
