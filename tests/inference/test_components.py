"""Connected components against a flood fill, and masks without specks."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline

from refersam.bulk.items import Item
from refersam.bulk.run import BulkSettings, LocalEngine
from refersam.cli.bulk import segment_many
from refersam.cli.segment import segment
from refersam.cli.video import video
from refersam.config import MIN_COMPONENT_FRACTION, ReferSamConfig
from refersam.evaluate.answers import protocol_answers
from refersam.inference.answers import read_answers
from refersam.inference.components import drop_specks, label_components
from refersam.inference.predictor import ReferSamPredictor
from refersam.inference.queries import Query
from refersam.metrics import PROTOCOLS
from refersam.model.refersam import ReferSamOutput
from refersam.serving.app import FIELDS
from refersam.video.run import segment_video

Run = Callable[..., SimpleNamespace]
SCENE = Path(__file__).parents[2] / "examples" / "scene_4.png"


def flood_fill(mask: np.ndarray) -> np.ndarray:
    """The obvious twin of `label_components`: from each pixel in reading order to all neighbours."""
    labels = np.zeros(mask.shape, np.int32)
    for start in zip(*np.nonzero(mask), strict=True):
        if labels[start]:
            continue
        labels[start] = number = labels.max() + 1
        waiting = [start]
        while waiting:
            row, column = waiting.pop()
            for y in range(max(row - 1, 0), min(row + 2, mask.shape[0])):
                for x in range(max(column - 1, 0), min(column + 2, mask.shape[1])):
                    if mask[y, x] and not labels[y, x]:
                        labels[y, x] = number
                        waiting.append((y, x))
    return labels


def mask_of(*rows: str) -> np.ndarray:
    """'#' is True."""
    return np.array([[character == "#" for character in row] for row in rows])


def random_masks() -> list[np.ndarray]:
    """Of all densities and sizes, with thin ones."""
    rng = np.random.default_rng(0)
    masks = [rng.random(rng.integers(1, 25, 2)) < rng.random() for _ in range(150)]
    return [*masks, *(rng.random(size) < 0.5 for size in ((1, 60), (60, 1), (1, 1), (2, 40)))]


def comb(side: int) -> np.ndarray:
    """Teeth that only the last row joins, and a snake beside them."""
    mask = np.zeros((side, 2 * side + 2), bool)
    mask[:, :side:2] = mask[-1, :side] = True
    mask[::2, side + 2 :] = True
    mask[1::4, -1] = mask[3::4, side + 2] = True
    return mask


def test_components_are_those_of_a_flood_fill() -> None:
    """Numbers included."""
    for mask in [*random_masks(), comb(31), comb(32), np.eye(20, dtype=bool), np.ones((7, 5), bool)]:
        np.testing.assert_array_equal(label_components(mask), flood_fill(mask))


def test_components_by_hand() -> None:
    """Corners connect; the end of a row and the start of the next do not."""
    assert label_components(mask_of("#..#", ".#..", "...#", "#...")).tolist() == [
        [1, 0, 0, 2],
        [0, 1, 0, 0],
        [0, 0, 0, 3],
        [4, 0, 0, 0],
    ]
    assert label_components(mask_of(".##", "#..")).tolist() == [[0, 1, 1], [1, 0, 0]]


@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.2, 0.5, 1.0])
def test_specks_are_small_components(fraction: float) -> None:
    """What is left of a mask are the components of at least the fraction of the largest; the input stays as it was."""
    for mask in random_masks():
        before, labels = mask.copy(), flood_fill(mask)
        areas = np.bincount(labels[mask], minlength=1)
        kept = mask & (areas >= fraction * areas.max())[labels]
        np.testing.assert_array_equal(drop_specks(mask, fraction), kept)
        np.testing.assert_array_equal(mask, before)


def test_specks_by_hand() -> None:
    """Exactly the fraction is kept, and so are components of equal size; an empty mask stays empty."""
    mask = mask_of("####.#", "####..", "......", "##....")
    assert drop_specks(mask, 0.25).tolist() == mask_of("####..", "####..", "......", "##....").tolist()
    assert drop_specks(mask, 0.26).tolist() == mask_of("####..", "####..", "......", "......").tolist()
    assert drop_specks(mask, 0.0) is mask
    two = mask_of("##.##")
    assert drop_specks(two, 1.0) is two
    assert not drop_specks(np.zeros((3, 4), bool)).any()


# --------------------------------------------------------------------------------------------------------- in answers


def output_of(mask: np.ndarray, has_target: float = 5.0) -> ReferSamOutput:
    """A model's output with the logits +1 and -1 of a mask, and more inside its first row."""
    logits = torch.from_numpy(np.where(mask, 1.0, -1.0)).float()[None]
    logits[0, 0] *= 3
    return ReferSamOutput(
        mask_logits=logits, iou_scores=torch.tensor([0.8]), object_score_logits=torch.tensor([has_target])
    )


@pytest.fixture(scope="module")
def predictor() -> ReferSamPredictor:
    """The bundled model."""
    return ReferSamPredictor.from_pretrained(device="cpu")


def test_all_parts_of_an_answer_agree(predictor: ReferSamPredictor) -> None:
    """Mask, box, area, RLE and a score that is the mean inside the mask are of what is kept."""
    mask = np.zeros((40, 60), bool)
    mask[10:30, 20:40] = True
    mask[0, 0] = mask[39, 58:] = True
    query = Query.prepare(predictor.processor, Image.new("RGB", (60, 40)), ["x"])
    supervised = predictor.model.config.supervise_iou
    try:
        for predictor.model.config.supervise_iou in (True, False):
            model, processor, output = predictor.model, predictor.processor, output_of(mask)
            (clean,) = read_answers(model, processor, output, query)
            (whole,) = read_answers(model, processor, output, query, min_component_fraction=0)
            assert (clean.box, clean.area) == ((20, 10, 40, 30), 400)
            assert (whole.box, whole.area) == ((0, 0, 60, 40), 403)
            assert clean.as_dict()["rle"] == clean.to_rle() != whole.to_rle()
            np.testing.assert_array_equal(clean.probability, whole.probability)
            if not predictor.model.config.supervise_iou:
                has_target = torch.sigmoid(torch.tensor(5.0))
                for answer in (clean, whole):
                    assert answer.score == pytest.approx(float(answer.probability[answer.mask].mean() * has_target))
                assert clean.score < whole.score
            (absent,) = read_answers(model, processor, output_of(mask, -5.0), query)
            assert (absent.no_target, absent.area, absent.box) == (True, 0, None)
            assert clean.no_target is whole.no_target is False
    finally:
        predictor.model.config.supervise_iou = supervised


def test_evaluation_scores_the_whole_mask(predictor: ReferSamPredictor) -> None:
    """To the pixel: protocols compare what the model gave."""
    mask = np.zeros((40, 60), bool)
    mask[10:30, 20:40] = mask[0, 0] = True
    (answer,) = protocol_answers(output_of(mask), [(40, 60)], predictor.processor, PROTOCOLS["sceneref"], True, 0.5)
    np.testing.assert_array_equal(answer.mask, mask)
    np.testing.assert_array_equal(answer.protocol_mask, mask)


def test_the_box_of_the_example_scene(predictor: ReferSamPredictor) -> None:
    """Its answer had two specks far from the diamond, and a box of half the image."""
    clean = predictor.predict(SCENE, "the largest diamond")
    whole = predictor.predict(SCENE, "the largest diamond", min_component_fraction=0)
    assert label_components(clean.mask).max() == 1
    assert (clean.mask & ~whole.mask).sum() == 0
    assert clean.box is not None
    left, top, right, bottom = clean.box
    assert (right - left) * (bottom - top) < 3 * clean.area


def test_every_way_passes_the_fraction_on(run: Run) -> None:
    """A command, bulk work and the pipeline."""
    boxes = {0.0: [], 0.01: []}
    for fraction, found in boxes.items():
        result = run("segment", SCENE, "the largest diamond", "--min-component-fraction", fraction, "--json")
        found.append(json.loads(result.out)[0]["box"])
        predictor = ReferSamPredictor.from_pretrained(device="cpu")
        engine = LocalEngine(predictor, BulkSettings(min_component_fraction=fraction))
        (line,) = engine([Item("x", str(SCENE), ("the largest diamond",))])
        found.append(list(line["results"][0]["box"]))
        segmenter = pipeline("referring-image-segmentation", device="cpu")
        (answer,) = segmenter(str(SCENE), phrases="the largest diamond", min_component_fraction=fraction)
        found.append(list(answer["box"]))
        assert found[0] == found[1] == found[2]
    assert boxes[0.0] != boxes[0.01]


def test_every_way_has_the_same_default() -> None:
    """Commands, video and bulk work take the model's own, which is 0.01 for ReferSAM."""
    assert ReferSamConfig.min_component_fraction == MIN_COMPONENT_FRACTION == 0.01
    for way in (segment, segment_many, video, segment_video, ReferSamPredictor.predict, read_answers):
        assert inspect.signature(way).parameters["min_component_fraction"].default is None, way
    assert BulkSettings().lasting()["min_component_fraction"] is None
    assert "min_component_fraction" in FIELDS
