"""The training loop: short, resumable, on any device that accelerate knows."""

from __future__ import annotations

import dataclasses
import difflib
import json
import logging
import math
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, set_seed
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from refersam.config import ReferSamConfig
from refersam.data.sample import ReferringImage
from refersam.data.sceneref import SceneRefSettings, generate_scene
from refersam.errors import ReferSamError
from refersam.evaluate import evaluate_images
from refersam.files import write_atomically
from refersam.losses import ReferSamLoss
from refersam.metrics import sceneref_metrics
from refersam.model.refersam import ReferSamModel
from refersam.predictor import load_model
from refersam.processor import ReferSamImageProcessor, ReferSamProcessor
from refersam.tokenizer import train_tokenizer
from refersam.training import checkpoint
from refersam.training.data import BatchStream, scene_to_referring_image, training_loader
from refersam.training.optimization import build_optimizers, rate_factor
from refersam.training.settings import SettingsError, TrainSettings

logger = logging.getLogger(__name__)

VALIDATION_PICTURE_SIZE = 256
TOKENIZER_PICTURES = 1500
Progress = Callable[[int, dict[str, float]], None]


class TrainingError(ReferSamError, RuntimeError):
    """A run that cannot start or go on."""


def build_processor(settings: TrainSettings) -> ReferSamProcessor:
    """The processor of a run: its tokenizer is trained on SceneRef's own phrases."""
    if settings.model.start_from is not None:
        tokenizer = load_model(settings.model.start_from)[1].tokenizer
    else:
        tokenizer = train_tokenizer(_tokenizer_phrases(settings), settings.data.vocab_size)
    side = settings.data.image_size
    image_processor = ReferSamImageProcessor(size={"height": side, "width": side})
    return ReferSamProcessor(image_processor, tokenizer, max_text_tokens=settings.data.max_text_tokens)


def _tokenizer_phrases(settings: TrainSettings) -> Iterator[str]:
    scenes = SceneRefSettings(width=64, height=64, phrases_per_scene=12, difficulty=0.0)
    for index in range(TOKENIZER_PICTURES):
        for phrase in generate_scene(scenes, "train", settings.seed, index).phrases:
            yield phrase.text


def build_model(settings: TrainSettings, processor: ReferSamProcessor) -> ReferSamModel:
    """The model of a run, from scratch or from a trained one."""
    if settings.model.start_from is not None:
        model = load_model(settings.model.start_from)[0]
    else:
        model = ReferSamModel(_build_config(settings, len(processor.tokenizer)))
    room = model.config.text_config.max_position_embeddings
    if settings.data.max_text_tokens > room:
        raise SettingsError(
            f"data.max_text_tokens is {settings.data.max_text_tokens}, but the text encoder has room for {room}."
        )
    return model


def _build_config(settings: TrainSettings, vocab_size: int) -> ReferSamConfig:
    known = sorted(field.name for field in dataclasses.fields(ReferSamConfig))
    for name in settings.model.config:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
            raise SettingsError(f"unknown setting model.config.{name}, did you mean {nearest}?")
    try:
        config = ReferSamConfig.from_preset(settings.model.preset, settings.model.text_encoder, **settings.model.config)
    except (ValueError, TypeError, AttributeError, ZeroDivisionError) as error:  # what wrong sizes end in
        raise SettingsError(f"model.config: {error}") from error
    config.text_config.vocab_size = vocab_size
    return config


def validation_images(settings: TrainSettings) -> Iterator[ReferringImage]:
    """SceneRef's val split, drawn larger than the network's input, as a user's picture would be."""
    side = VALIDATION_PICTURE_SIZE
    scenes = SceneRefSettings(width=side, height=side, phrases_per_scene=6)
    for index in range(settings.data.validation_pictures):
        yield scene_to_referring_image(generate_scene(scenes, "val", 0, index), f"val_{index}")


class Trainer:
    """One run in one folder.

    Args:
        settings: the recipe.
        out: folder for checkpoints, log and final model.
        resume: go on from the newest checkpoint; without one the run starts afresh.

    Raises:
        TrainingError: the folder holds a run, and resume is not set.
    """

    def __init__(self, settings: TrainSettings, out: Path, resume: bool = False) -> None:
        # Gradients of a mask that is all but certain are so small that CPUs compute them a hundred times slower.
        torch.set_flush_denormal(True)
        self.settings, self.out = settings, out
        self.checkpoints = out / "checkpoints"
        if out.exists() and not out.is_dir():
            raise TrainingError(f"{out} is a file: give a folder.")
        if out.exists() and any(out.iterdir()) and not resume:
            raise TrainingError(f"{out} already holds files: give another folder, or --resume to go on with its run.")
        # A dozen of SAM's parameters and BERT's pooler take no part and never get a gradient.
        unused = DistributedDataParallelKwargs(find_unused_parameters=True)
        self.accelerator = Accelerator(mixed_precision=settings.precision, kwargs_handlers=[unused])
        set_seed(settings.seed)
        self.processor = build_processor(settings)
        torch.manual_seed(settings.seed)
        model = build_model(settings, self.processor)
        optimizers = build_optimizers(model, settings.optimizer)
        self.highest_rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
        self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(settings.optimizer.ema_decay))
        self.average.to(self.accelerator.device)
        self.model, *self.optimizers = self.accelerator.prepare(model, *optimizers)
        self.loss = ReferSamLoss(
            settings.loss.num_points,
            iou_weight=settings.loss.iou_weight if model.config.supervise_iou else 0.0,
            object_weight=settings.loss.object_weight if model.config.object_score_head else 0.0,
        )
        self.step = 0
        if resume:
            self._resume()
        if self.accelerator.is_main_process:
            out.mkdir(parents=True, exist_ok=True)
            checkpoint.clear(self.checkpoints)
            recipe = yaml.safe_dump(settings.model_dump(), sort_keys=False).encode()
            write_atomically(out / "settings.yaml", lambda file: file.write(recipe))
            self._cut_log()

    def run(self, progress: Progress | None = None) -> dict[str, float]:
        """Train to the last step, keep the final model in `out/model`, return its validation metrics."""
        settings = self.settings
        stream = BatchStream(
            settings, self.processor, self.step, self.accelerator.process_index, self.accelerator.num_processes
        )
        self.model.train()
        sums: dict[str, float] = defaultdict(float)
        started, since = time.monotonic(), self.step
        metrics: dict[str, float] = {}
        for batch in training_loader(stream):
            terms = self._train_step(batch)
            self.step += 1
            for name, value in terms.items():
                sums[name] += value
            done = self.step == settings.steps
            if self.step % settings.log_every == 0 or done:
                count = self.step - since
                pace = count * settings.batch_pictures * settings.data.phrases_per_picture * self._processes
                line = {name: value / count for name, value in sums.items()}
                line |= {"rate": self._rate(), "samples/s": pace / (time.monotonic() - started)}
                self._log("train", line)
                if progress is not None:
                    progress(self.step, line | metrics)
                sums.clear()
                started, since = time.monotonic(), self.step
            if self.step % settings.checkpoint_every == 0 or done:
                self._save_checkpoint()
            if self.step % settings.validate_every == 0 or done:
                metrics = self.validate()
                self._log("validation", metrics)
                started, since = time.monotonic(), self.step
                sums.clear()
        self.save_model()
        return metrics or self.validate()

    @property
    def _processes(self) -> int:
        return self.accelerator.num_processes

    def _rate(self) -> float:
        return self.settings.optimizer.learning_rate * self._rate_factor()

    def _rate_factor(self) -> float:
        return rate_factor(self.step, self.settings.steps, self.settings.optimizer)

    def _train_step(self, batch: Any) -> dict[str, float]:
        device = self.accelerator.device
        factor = self._rate_factor()
        for optimizer, rates in zip(self.optimizers, self.highest_rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = factor * rate
        with self.accelerator.autocast():
            output = self.model(
                batch.pixel_values.to(device), batch.input_ids.to(device), batch.attention_mask.to(device)
            )
        terms = self.loss(output, batch.target_mask.to(device))
        self.accelerator.backward(terms["total"])
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.settings.optimizer.max_grad_norm)
        values = {name: value.item() for name, value in terms.items()}
        if not math.isfinite(values["total"]):
            raise TrainingError(f"The loss is {values['total']} at step {self.step}: lower optimizer.learning_rate.")
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.average.update_parameters(self.accelerator.unwrap_model(self.model))
        return values | {"grad norm": float(norm)}

    def validate(self) -> dict[str, float]:
        """SceneRef's metrics of the averaged weights on the val split."""
        average = self.average.module.eval()
        results = evaluate_images(cast(ReferSamModel, average), self.processor, validation_images(self.settings))
        return sceneref_metrics(results)

    def save_model(self) -> Path:
        """Write the averaged weights and the processor to `out/model`, at once."""
        final, temporary = self.out / "model", self.out / "model.tmp"
        if self.accelerator.is_main_process:
            shutil.rmtree(temporary, ignore_errors=True)
            cast(ReferSamModel, self.average.module).save_pretrained(temporary)
            self.processor.save_pretrained(temporary)
            checkpoint.replace_folder(temporary, final)
        return final

    def _save_checkpoint(self) -> None:
        if self.accelerator.is_main_process:
            state = {
                "model": self.accelerator.unwrap_model(self.model).state_dict(),
                "average": self.average.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            }
            checkpoint.save_checkpoint(self.checkpoints, self.step, state, self.settings.keep_checkpoints)

    def _resume(self) -> None:
        state = checkpoint.load_newest(self.checkpoints)
        if state is None:
            logger.warning("No complete checkpoint in %s: the run starts afresh.", self.checkpoints)
            return
        try:
            self.accelerator.unwrap_model(self.model).load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            self.step = state["step"]
        except (KeyError, ValueError, RuntimeError) as error:
            raise TrainingError(
                f"The checkpoint in {self.checkpoints} is of another model than the recipe's: resume with the recipe "
                f"that the run began with ({self.out / 'settings.yaml'})."
            ) from error
        logger.info("Resumed after step %d.", self.step)

    def _cut_log(self) -> None:
        """Drop what a killed run logged after its last checkpoint, and a line that it left unfinished."""
        path = self.out / "log.jsonl"
        if path.exists():
            lines = path.read_bytes().splitlines(keepends=True)
            kept = b"".join(line for line in lines if line.endswith(b"\n") and json.loads(line)["step"] <= self.step)
            write_atomically(path, lambda file: file.write(kept))

    def _log(self, kind: str, values: dict[str, float]) -> None:
        if self.accelerator.is_main_process:
            samples = self.step * self.settings.batch_pictures * self.settings.data.phrases_per_picture
            line = {"kind": kind, "step": self.step, "samples": samples * self._processes, "time": time.time()}
            with (self.out / "log.jsonl").open("a") as file:
                file.write(json.dumps(line | {name: round(value, 5) for name, value in values.items()}) + "\n")
