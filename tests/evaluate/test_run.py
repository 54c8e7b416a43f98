"""The evaluator: order, batches, processes, the way there and back through the file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from refersam.data import ReferringDataset
from refersam.data.sample import ImageRecord, ReferringSample
from refersam.errors import DataError
from refersam.evaluate import Evaluation, evaluate_model, evaluate_predictions, write_predictions
from refersam.evaluate.batches import ModelBatches, PackedMask, plan_batches
from refersam.evaluate.processes import Processes, join_processes
from refersam.inference.predictor import ReferSamPredictor
from refersam.metrics import PROTOCOLS, sum_pixels
from refersam.metrics.masks import encode_mask


def make_samples(image_ids: list[int]) -> list[ReferringSample]:
    """One phrase for each."""
    images = {number: ImageRecord(str(number), Path("none.png"), 3, 2) for number in image_ids}
    return [ReferringSample(str(place), "red", images[number], ()) for place, number in enumerate(image_ids)]


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(images=st.lists(st.integers(0, 9), max_size=40), batch_size=st.integers(1, 9), processes=st.integers(1, 5))
def test_batches(images: list[int], batch_size: int, processes: int) -> None:
    """Each sample once over all processes; each image's phrases together; every image of a batch with as many."""
    samples = make_samples(images)
    plans = plan_batches(samples, batch_size)
    shares = [Processes(index, processes).share(plans) for index in range(processes)]
    seen = [place for share in shares for plan in share for image in plan for place in image]
    assert sorted(seen) == list(range(len(samples)))
    for plan in plans:
        assert sum(map(len, plan)) <= batch_size
        assert len(set(map(len, plan))) == 1
        for image in plan:
            assert len({images[place] for place in image}) == 1
    full = [number for number in set(images) if images.count(number) <= batch_size]
    assert all(sum(images[image[0]] == number for plan in plans for image in plan) == 1 for number in full)


def test_packed_masks() -> None:
    """Of any shape."""
    mask = np.random.default_rng(0).random((7, 5)) < 0.5
    assert np.array_equal(PackedMask.pack(mask).unpack(), mask)


def results_of(evaluation: Evaluation) -> list[tuple[int, int, int, bool]]:
    return [(r.intersection, r.predicted, r.truth, r.judged_target) for r in evaluation.results]


def test_order_and_contents(scored: Evaluation, scenes: ReferringDataset, tiny_predictor: ReferSamPredictor) -> None:
    """The data set's order; each mask is the predictor's own, before its no-target decision."""
    assert [prediction.sample_id for prediction in scored.predictions] == [sample.sample_id for sample in scenes]
    for sample, prediction in list(zip(scenes, scored.predictions, strict=True))[:6]:
        answer = tiny_predictor.predict(np.asarray(sample.image.load()), sample.phrase, no_target_threshold=0)
        pixels = prediction.pixels(PROTOCOLS["original"], sample.image.height, sample.image.width)
        assert np.mean(pixels != answer.mask) < 0.001  # another batch rounds in another way
        assert prediction.score == pytest.approx(answer.score, abs=1e-4)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_written_predictions_score_the_same(
    name: str, tiny_predictor: ReferSamPredictor, scenes: ReferringDataset, tmp_path: Path
) -> None:
    """The same integers, decisions and scores, under every protocol."""
    protocol = PROTOCOLS[name]
    samples = [sample for sample in scenes if sample.has_target or protocol.takes_no_target][:8]
    evaluation = evaluate_model(tiny_predictor, samples, protocol, no_target_threshold=0.4, min_pixels=0)
    assert any(result.intersection for result in evaluation.results)
    path = tmp_path / "predictions.jsonl"
    path.write_bytes(write_predictions(evaluation.predictions))
    again = evaluate_predictions(path, samples, protocol)
    assert list(again.results) == list(evaluation.results)
    assert again.metrics == evaluation.metrics
    assert write_predictions(again.predictions) == path.read_bytes()
    used = sum(prediction.protocol_mask is not None for prediction in evaluation.predictions)
    assert again.settings["protocol_masks"] == used
    assert name not in ("original", "sceneref") or used == 0  # whose rule is the mask's own


def test_workers_and_batch_sizes(
    scored: Evaluation, tiny_predictor: ReferSamPredictor, scenes: ReferringDataset
) -> None:
    """Worker processes change nothing; the size of a batch changes nothing that can be seen."""
    with_workers = evaluate_model(tiny_predictor, scenes, PROTOCOLS["gres"], workers=2)
    assert list(with_workers.results) == list(scored.results)
    one_by_one = evaluate_model(tiny_predictor, scenes, PROTOCOLS["gres"], batch_size=1)
    assert np.abs(np.array(results_of(one_by_one)) - np.array(results_of(scored))).max() <= 50  # of 230,400 pixels


def test_progress_counts_samples(tiny_predictor: ReferSamPredictor, scenes: ReferringDataset) -> None:
    """From the first to the last."""
    sentence: list[tuple[str, int, int]] = []
    evaluate_model(
        tiny_predictor, scenes[:5], PROTOCOLS["sceneref"], progress=lambda *what: sentence.append(what), batch_size=2
    )
    assert sentence[-1] == ("segmenting", 5, 5)
    assert {total for what, _, total in sentence if what == "segmenting"} == {5}


def test_long_phrases_are_counted(tiny_predictor: ReferSamPredictor, scenes: ReferringDataset) -> None:
    """By the model's limit."""
    first = scenes[0]
    long = ReferringSample("long", "the red circle " * 10, first.image, first.regions)
    evaluation = evaluate_model(tiny_predictor, [first, long], PROTOCOLS["sceneref"])
    assert evaluation.cut == ("long",)
    assert evaluation.settings["max_text_tokens"] == 20


def test_stored_pixels_are_not_rotated(tiny_predictor: ReferSamPredictor, tmp_path: Path) -> None:
    """A camera's mark that the image is turned: masks match the pixels as they are stored."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    samples = []
    for name, options in (("plain", {}), ("turned", {"exif": exif.tobytes()})):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png", **options)
        image = ImageRecord(name, tmp_path / f"{name}.png", 60, 40)
        samples.append(ReferringSample(name, "the star", image, (encode_mask(np.ones((40, 60), bool)),)))
    plain, turned = (
        ModelBatches(samples, [((place,),)], tiny_predictor.processor, PROTOCOLS["original"])[0] for place in (0, 1)
    )
    assert torch.equal(plain.queries[0].pixel_values, turned.queries[0].pixel_values)  # type: ignore[union-attr]


def test_all_broken_images_are_reported_before_the_model_runs(
    tiny_predictor: ReferSamPredictor, scenes: ReferringDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off, of another size, and a mask that does not fit."""
    good = scenes[0]
    (tmp_path / "cut.png").write_bytes(good.image.path.read_bytes()[:-100])
    Image.new("RGB", (9, 9)).save(tmp_path / "size.png")
    records = [
        ImageRecord("cut", tmp_path / "cut.png", good.image.width, good.image.height),
        ImageRecord("size", tmp_path / "size.png", 80, 72),
    ]
    bad_mask = ReferringSample("mask", "red", good.image, (encode_mask(np.ones((2, 2), bool)),))
    samples = [good, *(ReferringSample(record.image_id, "red", record, good.regions) for record in records), bad_mask]
    monkeypatch.setattr(tiny_predictor.model, "forward", lambda *_: pytest.fail("the model ran"))
    with pytest.raises(DataError) as error:
        evaluate_model(tiny_predictor, samples, PROTOCOLS["sceneref"], workers=1)
    for sentence in ("3 images or masks", "cut.png", "size.png has 9 x 9 pixels", "2 x 2 pixels, but its image 80 x"):
        assert sentence in str(error.value)
    assert "Traceback" not in str(error.value)


def test_one_process_meets_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without torchrun nothing is started."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert join_processes("cpu") == Processes()
    assert Processes().gather([1, 2]) == [1, 2]


@pytest.mark.slow
def test_two_processes_count_as_one(scenes_root: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    """A real torchrun, over gloo: the same predictions to the byte, the same integers."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TERM": "dumb"}
    environment.pop("WORLD_SIZE", None)
    arguments = ["--data-root", scenes_root, "--dataset", "sceneref", "--split", "val", "--model", tiny_model_folder]
    arguments += ["--device", "cpu", "--batch-size", "4", "--workers", "1", "--protocol", "gres"]
    python = [sys.executable, "-m"]
    starts = {
        "one": [*python, "refersam", "evaluate"],
        "two": [*python, "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "refersam", "evaluate"],
    }
    documents = {}
    for name, start in starts.items():
        out = tmp_path / name
        command = [*start, *map(str, arguments), "--out", str(out)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        documents[name] = json.loads((out / "metrics.json").read_text())
        assert done.stdout.count("Protocol gres") == 1
    assert documents["two"]["settings"].pop("processes") == 2
    assert documents["one"]["settings"].pop("processes") == 1
    assert documents["two"] == documents["one"]
    one, two = ((tmp_path / name / "predictions.jsonl").read_bytes() for name in starts)
    assert one == two


def test_sums_do_not_depend_on_the_order(scored: Evaluation) -> None:
    """Nor metrics."""
    assert sum_pixels(scored.protocol, scored.results) == sum_pixels(scored.protocol, scored.results[::-1])
