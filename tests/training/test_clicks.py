"""Training with simulated clicks: targets, rounds, the frozen rest, resuming bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from refersam import ReferSamModel
from refersam.config import ReferSamConfig
from refersam.losses import ReferSamLoss
from refersam.training import checkpoint
from refersam.training.clicks import ClickTraining, _Targets
from refersam.training.data import Batch
from refersam.training.settings import ClickSettings, TrainSettings
from refersam.training.trainee import ReferSamTrainee
from refersam.training.trainer import Trainer

Miniature = Callable[..., TrainSettings]
ONLY = {"share": 1.0, "rounds": 2, "only": True, "cached_batches": 2}
TRAINED = ("sam.mask_decoder.", "sam.prompt_encoder.", "sam.object_score_head.")


@pytest.fixture
def batch() -> Batch:
    """Two images of 64 x 64 pixels with two phrases each, whose targets are squares; the last one has none."""
    target = torch.zeros(4, 64, 64)
    target[0, :30, :30] = target[1, 34:, 34:] = target[2, :20] = 1.0
    target[2, 40:] = 1.0
    return Batch(
        pixel_values=torch.randn(2, 3, 64, 64),
        input_ids=torch.randint(3, 50, (4, 5)),
        attention_mask=torch.ones(4, 5, dtype=torch.long),
        target_mask=target,
        sample_ids=("a", "b", "c", "d"),
        seeds=(1, 2, 3, 4),
    )


@pytest.fixture
def model(small_config: Callable[..., ReferSamConfig]) -> ReferSamModel:
    return ReferSamModel(small_config()).train()


def test_targets_of_the_user(batch: Batch) -> None:
    """Most are the phrase's own; some are another phrase's of the same image, or lack a component."""
    seen = {"own": 0, "other": 0, "part": 0}
    for seed in range(200):
        targets = _Targets.draw(batch, torch.Generator().manual_seed(seed))
        for row in range(4):
            got, own, other = targets.corrected[row], batch.target_mask[row], batch.target_mask[row ^ 1]
            if targets.switched[row]:
                assert torch.equal(got, other)
                assert row != 2  # whose other phrase has no target
                seen["other"] += 1
            elif targets.removed[row].any():
                assert row == 2
                assert torch.equal(got, own * ~targets.removed[row])
                assert got.any()
                seen["part"] += 1
            else:
                assert torch.equal(got, own)
                seen["own"] += 1
    assert 80 < seen["other"] < 160  # a fifth of three rows
    assert 8 < seen["part"] < 40  # a tenth of one row
    assert seen["own"] > 550


def test_rounds(model: ReferSamModel, batch: Batch) -> None:
    """Clicks and previous masks reach the decoder; the same seeds draw the same."""
    clicks = ClickTraining(ClickSettings(share=1.0, rounds=4))
    features = clicks.encode(model, batch)
    output = model.decode(features)
    calls: list[tuple[Any, ...]] = []
    decode = model.decode
    model.decode = lambda *arguments: calls.append(arguments) or decode(*arguments)  # type: ignore[method-assign]
    lengths, boxes, masks = set(), 0, 0
    for seed in range(30):
        batch.seeds = (seed, 0, 0, 0)
        calls.clear()
        rounds = list(clicks.rounds(model, features, output, batch))
        lengths.add(len(rounds))
        for number, (_features, points, labels, box, mask) in enumerate(calls, 1):
            count = 0 if points is None else points.shape[1]
            assert count == number - (box is not None)
            assert labels is None or set(labels.flatten().tolist()) <= {-1, 0, 1}
            boxes, masks = boxes + (box is not None), masks + (mask is not None)
        again = list(clicks.rounds(model, features, output, batch))
        assert torch.equal(rounds[-1][0].mask_logits, again[-1][0].mask_logits)
    assert lengths == {1, 2, 3, 4}
    assert boxes
    assert masks
    assert not list(ClickTraining(ClickSettings()).rounds(model, features, output, batch))


def test_only_decoder_and_prompt_encoder_learn(model: ReferSamModel, batch: Batch) -> None:
    """The rest is in evaluation mode and gets no gradient; features of a batch that comes again are computed once."""
    trainee = ReferSamTrainee(model, ReferSamLoss(64), clicks=ClickTraining(ClickSettings(**ONLY)))
    batch.cache_key = 0
    terms = trainee(batch).terms
    assert float(terms["clicks"]) > 0
    terms["total"].backward()
    learning = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert learning
    assert all(name.startswith(TRAINED) for name in learning)
    assert "sam.prompt_encoder.mask_embed.conv1.weight" in learning
    model.encode_phrases = lambda *_: pytest.fail("encoded again")  # type: ignore[method-assign]
    torch.testing.assert_close(trainee(batch).terms["total"], terms["total"])


def test_a_run_on_frozen_features(tmp_path: Path, miniature: Miniature) -> None:
    """Resumed bit for bit; only the decoder's weights differ from those at the start; the model knows of clicks."""
    settings = miniature(clicks=ONLY, steps=5)
    Trainer(settings, tmp_path / "whole").run()

    def stop(step: int, _values: dict[str, float]) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Trainer(settings, tmp_path / "stopped").run(stop)
    resumed = Trainer(settings, tmp_path / "stopped", resume=True)
    assert resumed.step == 2
    resumed.run()
    final = "model/model.safetensors"
    assert (tmp_path / "whole" / final).read_bytes() == (tmp_path / "stopped" / final).read_bytes()
    trained = ReferSamModel.from_pretrained(tmp_path / "whole" / "model")
    assert trained.config.supports_clicks
    state = checkpoint.load_newest(tmp_path / "whole" / "checkpoints")
    first = Trainer(settings, tmp_path / "start").engine.model.state_dict()
    assert state is not None
    changed = {name for name, weights in state["model"].items() if not torch.equal(weights, first[name])}
    assert changed
    assert all(name.startswith(TRAINED) for name in changed)


def test_clicks_beside_the_phrases(tmp_path: Path, miniature: Miniature) -> None:
    """With `share` alone the whole model learns, and batches do not repeat."""
    settings = miniature(clicks={"share": 0.5, "rounds": 2}, steps=2)
    trainer = Trainer(settings, tmp_path)
    before = {name: weights.clone() for name, weights in trainer.engine.model.state_dict().items()}
    trainer.run()
    after = load_file(tmp_path / "model" / "model.safetensors")
    assert any(not torch.equal(before[name], after[name]) for name in after if name.startswith("interactor."))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"only": True}, "only needs a share above 0"),
        ({"share": 0.5, "cached_batches": 3}, "cached_batches needs only: true"),
        ({"share": 1.5}, "less than or equal to 1"),
        ({"share": 0.5, "rounds": 0}, "greater than or equal to 1"),
    ],
)
def test_settings_that_do_not_fit_together(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        ClickSettings(**fields)
