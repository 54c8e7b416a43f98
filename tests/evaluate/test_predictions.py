"""The file format: what is taken, and every way to get it wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refersam.data.sample import ImageRecord, ReferringSample
from refersam.errors import DataError
from refersam.evaluate import Prediction, evaluate_predictions, predictions, read_predictions, write_predictions
from refersam.evaluate.predictions import make_prediction
from refersam.metrics import PROTOCOLS
from refersam.metrics.masks import encode_mask, resize_nearest

IMAGE = ImageRecord("1", Path("none.png"), width=3, height=2)
SAMPLES = [ReferringSample(name, "a phrase", IMAGE, ()) for name in ("1", "2")]
MASK = {"size": [2, 3], "counts": [1, 2, 3]}
GOOD = {"sample_id": "1", "mask": MASK}
OTHER = {"sample_id": "2", "mask": MASK}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "masks.jsonl"


def write(path: Path, *lines: Any) -> Path:
    """Objects as JSON, text and bytes as they are."""
    raw = [line if isinstance(line, bytes) else line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_bytes(b"".join((line if isinstance(line, bytes) else line.encode()) + b"\n" for line in raw))
    return path


def test_what_is_taken(path: Path) -> None:
    """Run lengths as list or string, numbers as ids, empty lines, any order; unknown is None."""
    second = {"sample_id": 2, "mask": encode_mask(np.ones((2, 3), bool)), "no_target": True, "score": 7}
    found = read_predictions(write(path, second, "", GOOD), SAMPLES)
    first = found["1"]
    # Run lengths go down the columns: one pixel out, two in, three out.
    assert first.pixels(PROTOCOLS["original"], 2, 3).tolist() == [[False, True, False], [True, False, False]]
    assert (first.no_target, first.score, first.target_probability, first.protocol_mask) == (None, None, None, None)
    assert (found["2"].no_target, found["2"].score) == (True, 7.0)
    assert found["2"].pixels(PROTOCOLS["original"], 2, 3).all()
    assert found["2"].pixels(PROTOCOLS["lavt"], 2, 3).shape == (480, 480)


def test_a_mask_is_kept_where_there_is_no_target(path: Path) -> None:
    """Written and read."""
    prediction = Prediction("1", encode_mask(np.ones((2, 3), bool)), no_target=True, score=0.25, target_probability=0.1)
    path.write_bytes(write_predictions([prediction]))
    assert read_predictions(path, SAMPLES[:1]) == {"1": prediction}


def test_masks_for_a_protocol(path: Path) -> None:
    """Used by that protocol alone; left out where nearest neighbour says the same."""
    mask = np.array([[True, False, False], [False, False, False]])
    base = Prediction("1", encode_mask(mask))
    lavt = PROTOCOLS["lavt"]
    assert make_prediction(base, mask, resize_nearest(mask, 480, 480), lavt) is base
    own = np.zeros((480, 480), bool)
    own[:7] = True
    path.write_bytes(write_predictions([make_prediction(base, mask, own, lavt)]))
    again = read_predictions(path, SAMPLES[:1])["1"]
    assert np.array_equal(again.pixels(lavt, 2, 3), own)
    assert np.array_equal(again.pixels(PROTOCOLS["gres"], 2, 3), resize_nearest(mask, 480, 480))
    assert np.array_equal(again.pixels(PROTOCOLS["original"], 2, 3), mask)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{", "line 1: not JSON"),
        ("[" * 100_000, "line 1: not JSON"),
        (b"\xff\xfe", "line 1: not JSON"),
        ("[1]", "line 1: a JSON object is expected"),
        ("1" * 5000, "line 1: not JSON"),
        ({"mask": MASK}, '"sample_id" must be a string'),
        (GOOD | {"sample_id": True}, '"sample_id" must be a string'),
        (GOOD | {"sample_id": ["1"]}, '"sample_id" must be a string'),
        (GOOD | {"sample_id": "3"}, "the data set has no sample '3'"),
        (GOOD | {"no_traget": True}, "unknown key 'no_traget': known are sample_id, mask"),
        ({"sample_id": "1"}, '"mask" must be COCO run lengths'),
        (GOOD | {"mask": [[0, 0, 2, 0, 2, 2]]}, '"mask" must be COCO run lengths'),
        (GOOD | {"mask": {"size": [3, 2], "counts": [6]}}, r'"mask" must have the size \[2, 3\], but has \[3, 2\]'),
        (GOOD | {"mask": {"size": [10**9, 10**9], "counts": [10**18]}}, "must have the size"),
        (GOOD | {"mask": {"size": [2, 3]}}, '"mask": '),
        (GOOD | {"mask": {"size": [2, 3], "counts": [7]}}, "add up to 2 x 3"),
        (GOOD | {"mask": {"size": [2, 3], "counts": [-1, 7]}}, "add up to 2 x 3"),
        (GOOD | {"mask": {"size": [2, 3], "counts": "~~~~~~~~"}}, '"mask": '),
        (GOOD | {"mask": {"size": [2, 3], "counts": "\u20ac"}}, '"mask": '),
        (GOOD | {"no_target": 1}, '"no_target" must be true or false'),
        (GOOD | {"score": "0.5"}, '"score" must be a number'),
        (GOOD | {"score": True}, '"score" must be a number'),
        ('{"sample_id": "1", "score": NaN}', "NaN is not a number"),
        ('{"sample_id": "1", "mask": {"size": [2, 3], "counts": [6]}, "score": 1e999}', "must be a finite number"),
        (GOOD | {"score": 10**400}, "must be a finite number"),
        (GOOD | {"target_probability": 1.5}, '"target_probability" must be a number from 0 to 1'),
        (GOOD | {"protocol": "lavt"}, "belong together"),
        (GOOD | {"protocol": "lovt", "protocol_mask": MASK}, '"protocol" must be one of original, lavt'),
        (GOOD | {"protocol": ["lavt"], "protocol_mask": MASK}, '"protocol" must be one of original, lavt'),
        (GOOD | {"protocol": "lavt", "protocol_mask": MASK}, r'"protocol_mask" must have the size \[480, 480\]'),
    ],
)
def test_bad_lines(path: Path, line: Any, sentence: str) -> None:
    """Each is reported with its line, beside the sample that has no line for it."""
    with pytest.raises(DataError, match=sentence) as error:
        read_predictions(write(path, line, OTHER), SAMPLES)
    assert "1 of 2 samples have no usable line: 1" in str(error.value)
    assert len(str(error.value)) < 1000


def test_everything_is_reported_at_once(path: Path) -> None:
    """Wrong, twice, unknown and missing."""
    samples = [*SAMPLES, ReferringSample("4", "a phrase", IMAGE, ())]
    with pytest.raises(DataError) as error:
        read_predictions(write(path, GOOD, GOOD, "{", GOOD | {"sample_id": "9"}, OTHER), samples)
    message = str(error.value)
    for sentence in (
        "line 2: the sample id '1' was there before",
        "line 3: not JSON",
        "line 4: the data set has no sample",
    ):
        assert sentence in message
    assert message.endswith("\n- 1 of 3 samples have no usable line: 4")
    assert len(message.splitlines()) == 5, "one line each, below the head"


def test_a_file_full_of_rubbish_is_not_read_to_its_end(path: Path) -> None:
    """A hundred problems are reported, no more."""
    with pytest.raises(DataError, match=r"\n- line 100: .*\n- reading stopped here$") as error:
        read_predictions(write(path, *["{"] * 100_000), SAMPLES)
    assert "line 101" not in str(error.value)


def test_an_endless_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not kept in memory."""
    monkeypatch.setattr(predictions, "MAX_LINE", 1000)
    with pytest.raises(DataError, match="line 2: longer than 1,000 bytes; reading stopped here"):
        read_predictions(write(path, GOOD, "1" * 2000, OTHER), SAMPLES)


def test_lines_of_other_samples(path: Path) -> None:
    """With a limit, the rest of the data set's lines are passed over, unread."""
    write(path, GOOD, {"sample_id": "2", "mask": "anything"})
    assert read_predictions(path, SAMPLES[:1], others=["1", "2"]).keys() == {"1"}
    evaluation = evaluate_predictions(path, SAMPLES[:1], PROTOCOLS["gres"], others=["1", "2"])
    assert evaluation.metrics["N-acc"] == 0


def test_no_such_file(tmp_path: Path) -> None:
    """A folder is none either."""
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(DataError, match="No such file"):
            read_predictions(path, SAMPLES)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(counts=st.text(max_size=20) | st.lists(st.integers(-(2**70), 2**70), max_size=5))
def test_any_run_lengths_end_in_a_mask_or_an_error(tmp_path_factory: pytest.TempPathFactory, counts: Any) -> None:
    """Never in a crash."""
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    write(path, GOOD | {"mask": {"size": [2, 3], "counts": counts}})
    try:
        found = read_predictions(path, SAMPLES[:1])
    except DataError:
        return
    assert found["1"].pixels(PROTOCOLS["original"], 2, 3).shape == (2, 3)
