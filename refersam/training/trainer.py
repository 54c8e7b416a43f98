"""Trainer: one resumable run on any number of devices."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from accelerate.utils import gather_object, set_seed

from refersam.evaluate.processes import Processes
from refersam.files import LOCK, WriteLock, errors_named, replace_folder
from refersam.model.refersam import ReferSamModel
from refersam.training import checkpoint
from refersam.training.building import build_model, build_processor
from refersam.training.data import Batch, BatchStream, training_batches
from refersam.training.engine import ReferSamEngine, build_accelerator
from refersam.training.environment import describe_environment
from refersam.training.errors import TrainingError
from refersam.training.extension import load_extension
from refersam.training.journal import Journal
from refersam.training.loop import LogLine, run_steps
from refersam.training.memory import explained_out_of_memory, peak_memory
from refersam.training.optimization import lr_factor
from refersam.training.phases import Phase
from refersam.training.recipe import changes_since
from refersam.training.settings import TrainSettings
from refersam.training.signals import INTERRUPT, Stopped, StopSignals, any_process, never
from refersam.training.sources import Source
from refersam.training.trackers import check_trackers
from refersam.training.validation import Validator

logger = logging.getLogger(__name__)

ANOTHER = "a signal to another process"
PRETRAINING = "pretraining"
"""Folder of the pretraining checkpoints, with one folder per phase."""

RUN_FILES = ("settings.yaml", "checkpoints", PRETRAINING)
"""Files of which every run has at least one."""

_FORWARDED_SECONDS = 2.0
"""Seconds in which a second SIGINT is ignored: the launcher of several processes forwards the terminal's SIGINT."""

Progress = Callable[[int, dict[str, float]], None]
"""Callback with the number of completed steps and the values of a log line."""
OnStep = Callable[[int, int], object]
"""Callback after every step with the numbers of completed pretraining steps and training steps."""


def _ignore(_pretrained: int, _done: int) -> None:
    """Do nothing; the default `OnStep`."""


class Trainer:
    """One run in one output folder.

    Args:
        settings: settings of the run.
        out: folder for checkpoints, log and final model.
        resume: whether to resume from the newest checkpoint; without a checkpoint, the run starts from the beginning.

    Raises:
        TrainingError: the folder contains a run and resume is False, or its checkpoint is of another model.
        SettingsError: inconsistent settings, or settings that do not match the data.
        DataError: invalid data, or another process is writing to the folder.
        CheckpointError: unreadable initial weights or checkpoints.
    """

    def __init__(self, settings: TrainSettings, out: Path, resume: bool = False) -> None:
        # CPUs are a hundred times slower on denormal numbers, which occur in the gradients of confident masks.
        torch.set_flush_denormal(True)
        self.settings, self.out, self.checkpoints = settings, out, out / "checkpoints"
        check_folder_for_run(out, resume)
        check_trackers(settings)
        self.accelerator = build_accelerator(settings)
        self._lock = WriteLock(out)
        if self.accelerator.is_main_process:
            self._lock.acquire()
        try:
            self._prepare(resume)
        except BaseException:
            self._lock.release()
            raise

    def _prepare(self, resume: bool) -> None:
        settings, out = self.settings, self.out
        if self.accelerator.is_main_process:
            check_folder_for_run(out, resume)  # again, with the lock: another run may have just ended
        set_seed(settings.seed)
        extension = load_extension(settings.extension)
        self.source = extension.open_source(settings)
        self.steps = total_steps(settings, self.source, self.accelerator.num_processes)
        validation = extension.open_validation(settings)  # before any download: missing data are reported first
        self.processor = build_processor(settings, self.source)
        processes = Processes(self.accelerator.process_index, self.accelerator.num_processes)
        self.validator = Validator(validation, self.processor, processes)
        torch.manual_seed(settings.seed)
        with explained_out_of_memory():
            model = build_model(settings, self.processor)
            extension.prepare_model(model, settings)
            objectives = extension.build_objectives(model, settings)
            self.engine = ReferSamEngine(model, settings, self.accelerator, objectives)
        self.phases = extension.build_phases(model, self.processor, settings, self.accelerator)
        set_seed(settings.seed, device_specific=True)  # from here on, each process has its own random numbers
        self.journal = Journal(out, settings)
        self.step = 0
        self.validations: dict[int, dict[str, float]] = {}
        self.stopped_by: str | None = None
        """Signal that ended `run` before its last step."""
        if resume:
            with explained_out_of_memory():
                self._resume()
        self.accelerator.wait_for_everyone()  # all processes must check the folder before the first writes to it
        if self.accelerator.is_main_process:
            for folder in (self.checkpoints, *self._phase_folders):
                checkpoint.clear(folder)
            pretrained = sum(map(checkpoint.newest_step, self._phase_folders))
            self.journal.begin(self.step, describe_environment(self.accelerator.device, processes.count), pretrained)

    def run(self, progress: Progress | None = None, on_step: OnStep = _ignore) -> dict[str, float]:
        """Train to the last step, save the final model to `out/model`, and return its validation metrics.

        On SIGTERM, SIGUSR1 or SIGINT (Ctrl-C), a checkpoint is written after the current step, and `stopped_by` is set.
        The method then returns an empty dictionary, or raises KeyboardInterrupt after SIGINT. A running validation is
        abandoned and repeated by the resumed run; several processes complete it first.

        Args:
            progress: called at each log line.
            on_step: called after every step, without synchronising the device.

        Raises:
            KeyboardInterrupt: after a SIGINT, with a checkpoint; after a second one without.
            TrainingError: too many steps with a NaN or exploding loss, or the device is out of memory.
            DataError: unreadable images or masks.
            OSError: the disk is full; the last complete checkpoint stays.
        """
        grace = _FORWARDED_SECONDS if self.accelerator.num_processes > 1 else 0.0
        try:
            with explained_out_of_memory(), StopSignals(grace) as signals:
                try:
                    if self._pretrain(signals, progress, on_step) and self._train(signals, progress, on_step):
                        return self._finish()
                    self.stopped_by = signals.received or ANOTHER
                finally:
                    if self.accelerator.is_main_process:
                        self.journal.end()
        finally:
            self._lock.release()
        if self.stopped_by == INTERRUPT:
            raise KeyboardInterrupt
        return {}

    @property
    def pretraining_steps(self) -> int:
        """Number of steps of all pretraining phases."""
        return sum(phase.steps for phase in self.phases)

    @property
    def _phase_folders(self) -> list[Path]:
        """Checkpoint folders of the phases."""
        return [self.out / PRETRAINING / str(number) for number, _ in enumerate(self.phases, 1)]

    def _pretrain(self, signals: StopSignals, progress: Progress | None, show_step: OnStep) -> bool:
        """Run the remaining pretraining phases.

        Returns:
            Whether training can start; False after a signal.
        """
        if self.step or not self.phases:
            return True
        before = 0  # steps of earlier phases
        for phase, folder in zip(self.phases, self._phase_folders, strict=True):
            if not self._run_phase(phase, folder, before, signals, progress, show_step):
                return False
            before += phase.steps
        set_seed(self.settings.seed, device_specific=True)  # independent of interruptions of the phases
        return True

    def _run_phase(
        self,
        phase: Phase,
        folder: Path,
        before: int,
        signals: StopSignals,
        progress: Progress | None,
        show_step: OnStep,
    ) -> bool:
        engine, first = phase.build_engine(), 0
        state = checkpoint.load_newest(folder)
        if state is not None:
            engine.load_state_dict(state)
            first = state["step"]

        def on_step(done: int, line: LogLine | None) -> None:
            if line is not None:
                self._log("pretraining", {"pretraining steps": float(before + done), **line.terms})
                if progress is not None:
                    progress(0, {"pretraining": (before + done) / self.pretraining_steps, **line.terms})
            show_step(before + done, 0)

        def after_step(done: int, stop: bool) -> bool:
            if done % phase.checkpoint_every == 0 or done == phase.steps or stop:
                saved = engine.state_dict()
                if self.accelerator.is_main_process:
                    checkpoint.save_checkpoint(folder, done, saved, keep=1)
            return stop

        if first < phase.steps:
            with suppress(Stopped):
                phase.prepare(signals.is_set)
            if any_process(signals.is_set(), self.accelerator):
                return False
            is_complete = run_steps(
                engine,
                ([phase.batch(step)] for step in range(first, phase.steps)),
                first=first,
                steps=phase.steps,
                log_every=phase.log_every,
                lr_factor=phase.lr_factor,
                is_stopping=signals.is_set,
                on_step=on_step,
                after_step=after_step,
            )
            if not is_complete:
                return False
            self.accelerator.wait_for_everyone()
        phase.finish(engine)
        return True

    def _train(self, signals: StopSignals, progress: Progress | None, show_step: OnStep) -> bool:
        """Take the remaining steps.

        Returns:
            Whether all steps are completed and the last one is validated; False after a signal, with a checkpoint.
        """
        settings = self.settings
        if self._is_validation_due() and not self._validate(signals):  # the run was stopped in this validation
            return False
        self.engine.trainee.train()

        def on_step(done: int, line: LogLine | None) -> None:
            self.step = done
            if line is not None:
                rate, pace = line.lr_factor * settings.optimizer.learning_rate, line.steps_per_second
                values = line.terms | {"learning rate": rate, "samples/s": pace * self._samples_per_step}
                values |= {"memory GiB": peak_memory(self.accelerator.device), "skipped": float(line.skipped)}
                self._log("train", values)
                if progress is not None:
                    progress(done, values | self.validations.get(max(self.validations, default=0), {}))
            show_step(self.pretraining_steps, done)

        def after_step(done: int, stop: bool) -> bool:
            if self._is_validation_due():
                stop = not self._validate(signals) or stop
            is_last = done == self.steps
            if done % settings.checkpoint_every == 0 or is_last or stop or self._is_best():
                self._save_checkpoint()
            return stop and not (is_last and done in self.validations)

        return run_steps(
            self.engine,
            self._batches(),
            first=self.step,
            steps=self.steps,
            log_every=settings.log_every,
            lr_factor=lambda step: lr_factor(step, self.steps, settings.optimizer),
            is_stopping=signals.is_set,
            on_step=on_step,
            after_step=after_step,
        )

    def _batches(self) -> Iterator[Sequence[Batch]]:
        """Yield the batches of each remaining step."""
        each, place = self.settings.gradient_accumulation_steps, self.accelerator
        stream = BatchStream(
            self.settings,
            self.source,
            self.processor,
            count=self.steps * each,
            first=self.step * each,
            rank=place.process_index,
            world_size=place.num_processes,
        )
        batches = training_batches(stream)
        yield from zip(*[batches] * each, strict=True)

    @property
    def _samples_per_step(self) -> int:
        images = self.settings.batch_size * self.settings.gradient_accumulation_steps * self.accelerator.num_processes
        return images * self.settings.data.phrases_per_image

    def _log(self, kind: str, values: dict[str, float]) -> None:
        if self.accelerator.is_main_process:
            self.journal.write(kind, self.step, self.step * self._samples_per_step, values)

    def _is_validation_due(self) -> bool:
        """Return whether the current step must be validated and is not validated yet."""
        is_due = self.step % self.settings.validate_every == 0 or self.step >= self.steps
        return is_due and self.step > 0 and self.step not in self.validations

    def _validate(self, signals: StopSignals) -> bool:
        """Validate the current step.

        Returns:
            Whether the run can continue; False after a signal to any process. Only a single process abandons the
            validation; several processes complete it.
        """
        is_stopping = signals.is_set if self.accelerator.num_processes == 1 else never
        with self.engine.averaged_model() as model:
            try:
                metrics = self.validator.score(model, is_stopping)
            except Stopped:
                return False
            self.validations[self.step] = metrics
            self._log("validation", metrics)
            if self.accelerator.is_main_process:
                self.journal.show(self.step, self.validator.draw(model))
        return not any_process(signals.is_set(), self.accelerator)

    def _best_steps(self) -> list[int]:
        """Return the steps of the best validations, best first; of equal ones the earlier first."""
        metric = self.validator.metric
        ranked = sorted(self.validations, key=lambda step: (-self.validations[step].get(metric, 0.0), step))
        return ranked[: self.settings.keep_best]

    def _is_best(self) -> bool:
        return self.step in self._best_steps()

    def _save_checkpoint(self) -> None:
        own = [checkpoint.random_state()]
        states = gather_object(own) if self.accelerator.num_processes > 1 else own
        state = self.engine.state_dict()
        if self.accelerator.is_main_process:
            validations = [[step, metrics] for step, metrics in self.validations.items()]
            state |= {"random": states, "validations": validations}
            keep = self.settings.keep_checkpoints
            checkpoint.save_checkpoint(self.checkpoints, self.step, state, keep, self._best_steps())

    def _resume(self) -> None:
        state = checkpoint.load_newest(self.checkpoints)
        if state is None:
            if any(map(checkpoint.newest_step, self._phase_folders)):
                logger.info("Resuming in the pretraining.")
            else:
                logger.warning("No complete checkpoint in %s: the run starts from the beginning.", self.checkpoints)
            return
        self._log_changes()
        try:
            self.engine.load_state_dict(state)
            self.step = state["step"]
            self.validations = dict(state["validations"])
            randoms = state["random"]
        except torch.OutOfMemoryError:
            raise
        except (KeyError, ValueError, RuntimeError) as error:
            raise TrainingError(
                f"The checkpoint in {self.checkpoints} does not match the model or the parameter groups of the recipe "
                "(learning rates of optimizer, objectives): resume with the recipe that the run started with "
                f"({self.out / 'settings.yaml'})."
            ) from error
        if len(randoms) == self.accelerator.num_processes:
            checkpoint.restore_random_state(randoms[self.accelerator.process_index])
        else:
            logger.warning(
                "Resuming with %d processes instead of %d: the random numbers differ from those of an uninterrupted "
                "run.",
                self.accelerator.num_processes,
                len(randoms),
            )
        logger.info("Resumed after step %d.", self.step)

    def _log_changes(self) -> None:
        path = self.out / "settings.yaml"
        if path.exists():
            changes = changes_since(path, self.settings)
            if changes:
                logger.warning("Resuming with changed settings: %s.", "; ".join(changes))

    def _finish(self) -> dict[str, float]:
        """Write the final model and its metrics."""
        step = self.step
        if self.settings.final_model == "best":
            step = self._best_steps()[0]
            if step != self.step:
                self.engine.load_average(checkpoint.read_checkpoint(checkpoint.checkpoint_path(self.checkpoints, step)))
        with self.engine.averaged_model() as model:
            if self.accelerator.is_main_process:
                self._save_model(model)
                result = {"step": step, "metric": self.validator.metric, "metrics": self.validations[step]}
                self.journal.write_result(result)
        self.accelerator.wait_for_everyone()
        return self.validations[step]

    def _save_model(self, model: ReferSamModel) -> None:
        """Write a model and the processor to `out/model`, atomically."""
        final, temporary = self.out / "model", self.out / "model.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            with errors_named(final, str(temporary)):
                model.save_pretrained(temporary)
                self.processor.save_pretrained(temporary)
            replace_folder(temporary, final)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def check_folder_for_run(out: Path, resume: bool) -> None:
    """Validate the output folder: it must be empty, or contain a run when resuming.

    Raises:
        TrainingError: not a folder, or a folder with other content.
    """
    if out.exists() and not out.is_dir():
        raise TrainingError(f"Expected an output folder, but {out} is a file.")
    if not out.exists() or all(path.name == LOCK for path in out.iterdir()):
        return
    if not resume:
        raise TrainingError(f"{out} already holds files: choose another folder, or add --resume to continue its run.")
    if not any((out / name).exists() for name in RUN_FILES):
        raise TrainingError(f"{out} holds files, but no run to resume: choose another folder.")


def total_steps(settings: TrainSettings, source: Source, processes: int) -> int:
    """Return the number of optimizer steps of the run, from `steps` or `epochs`."""
    if settings.epochs is None or source.length is None:
        return settings.steps
    images_per_step = settings.batch_size * settings.gradient_accumulation_steps * processes
    return max(1, round(settings.epochs * source.length / images_per_step))
