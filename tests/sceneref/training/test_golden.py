"""A whole training on rendered scenes against recorded numbers.

The numbers are the loss terms that the same training logged at commit 33e9d73, before the laboratory of SceneRef became
the extension `sceneref.training`. They depend on every random stream and on the order of its draws: weights, scenes,
curriculum with its review, augmentation, rewording, sampled points, dropout. A change that is meant to change one of
these records new numbers; for any other change they stay.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from refersam.training.trainer import Trainer
from sceneref.training.settings import SceneRefTrainSettings

PHASE = {"images": 4, "batch_size": 2, "image_size": 64, "log_every": 1, "warmup_steps": 1}
SCENEREF = {
    "stages": [{"until": 0.5, "max_objects": 4}, {"review": 0.5, "image_size": 96}],
    "objectives": {"grounding": 1.0, "pointing": 1.0, "attributes": 0.2, "conditions": 1.0, "positions": 0.5},
    "rewording": {"synonyms": 0.5, "typing_errors": 0.3, "sentences": 0.2},
    "pretraining": [
        {**PHASE, "part": "prior", "steps": 3},
        {**PHASE, "part": "encoder", "steps": 2, "position_weight": 1.0},
        {
            **PHASE,
            "part": "text",
            "steps": 2,
            "phrases_per_image": 4,
            "synonyms": 0.5,
            "typing_errors": 0.5,
            "sentences": 0.5,
        },
    ],
}
PHASES: list[dict[str, float]] = [
    {"fine": 0.6516, "colour": 5.72723, "shape": 4.8094, "pattern": 2.48535, "total": 13.67358},
    {"fine": 0.65769, "colour": 4.79196, "shape": 4.90681, "pattern": 2.61503, "total": 12.97149},
    {"fine": 0.62641, "colour": 5.00502, "shape": 4.31368, "pattern": 1.99177, "total": 11.93689},
    {"position": 4.18917, "fine": 0.8485, "colour": 4.99504, "shape": 6.03431, "pattern": 3.04447, "total": 19.11148},
    {"position": 3.52679, "fine": 0.75033, "colour": 4.74635, "shape": 5.21621, "pattern": 2.84618, "total": 17.08587},
    {"targets": 0.77794, "mentions": 1.51785, "pointing": 5.77726, "condition": 0.35022, "total": 12.42201},
    {"targets": 0.73155, "mentions": 1.44932, "pointing": 5.21709, "condition": 0.0, "total": 11.33202},
]
STEPS: list[dict[str, float]] = [
    {
        "mask": 0.69334,
        "dice": 0.91521,
        "coarse_mask": 0.69102,
        "coarse_dice": 0.92351,
        "iou": 0.01217,
        "object": 0.68909,
        "total": 12.53972,
        "grounding": 0.94272,
        "pointing": 1.39347,
        "condition": 0.35717,
        "position": 6.97759,
        "colour": 5.82194,
        "shape": 5.05218,
        "pattern": 3.04523,
        "auxiliary": 8.96602,
        "grad norm": 7.40081,
    },
    {
        "mask": 0.68956,
        "dice": 0.88656,
        "coarse_mask": 0.66777,
        "coarse_dice": 0.94941,
        "iou": 0.00032,
        "object": 0.63357,
        "total": 11.57193,
        "grounding": 0.99244,
        "pointing": 0.88654,
        "condition": 0.50456,
        "position": 5.88785,
        "colour": 5.83959,
        "shape": 5.06735,
        "pattern": 2.76426,
        "auxiliary": 8.06169,
        "grad norm": 5.13571,
    },
    {
        "mask": 0.68792,
        "dice": 0.945,
        "coarse_mask": 0.64362,
        "coarse_dice": 0.93849,
        "iou": 0.00145,
        "object": 0.69926,
        "total": 11.14585,
        "grounding": 1.037,
        "pointing": 0.8343,
        "condition": 0.16665,
        "position": 5.28866,
        "colour": 5.41764,
        "shape": 6.29617,
        "pattern": 2.77714,
        "auxiliary": 7.58047,
        "grad norm": 5.97432,
    },
    {
        "mask": 0.68841,
        "dice": 0.91814,
        "coarse_mask": 0.62858,
        "coarse_dice": 0.9323,
        "iou": 0.00397,
        "object": 0.57046,
        "total": 11.59223,
        "grounding": 1.03275,
        "pointing": 1.51961,
        "condition": 0.35608,
        "position": 4.84281,
        "colour": 5.54107,
        "shape": 5.93016,
        "pattern": 2.56753,
        "auxiliary": 8.13759,
        "grad norm": 4.04106,
    },
]


def check(lines: list[dict[str, Any]], expected: list[dict[str, float]]) -> None:
    """Compare the terms of each line; they are logged with five decimals."""
    assert len(lines) == len(expected)
    for number, (line, terms) in enumerate(zip(lines, expected, strict=True)):
        found = {name: line[name] for name in terms}
        assert found == pytest.approx(terms, rel=1e-3, abs=2e-5), number


def test_every_loss_is_the_recorded_one(miniature: Callable[..., SceneRefTrainSettings], tmp_path: Path) -> None:
    """In all three kinds of phases, and in four steps with all objectives."""
    settings = miniature(
        sceneref=SCENEREF,
        steps=4,
        gradient_accumulation_steps=2,
        optimizer={"warmup_steps": 0},
        data={"augment": {"flip": 0.5, "crop": 0.5, "colour": 0.2}},
    )
    Trainer(settings, tmp_path).run()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    check([line for line in lines if line["kind"] == "pretraining"], PHASES)
    check([line for line in lines if line["kind"] == "train"], STEPS)
