"""Owns the run: asks its task for steps, judges, saves and resumes; what is trained the task alone knows."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from inpaint.arguments import Options
from inpaint.config import Config
from inpaint.data.batches import BatchLoader
from inpaint.distributed.heartbeat import Heartbeat
from inpaint.distributed.runtime import Runtime
from inpaint.distributed.signals import StopRequest
from inpaint.distributed.stop_sync import NOTHING, SAVE, STOP, StopSync
from inpaint.errors import InpaintError
from inpaint.evaluation.metrics import sentence
from inpaint.training.checkpoint import BEST, CheckpointStore
from inpaint.training.console import Console
from inpaint.training.evaluator import Evaluator
from inpaint.training.identity import digest_of
from inpaint.training.meter import Meter, NonFiniteError, StepInfo, Throughput
from inpaint.training.profile import Profiler
from inpaint.training.publication import Publication
from inpaint.training.run_directory import RunDirectory, finished_step
from inpaint.training.schedule import LearningRate, Phases
from inpaint.training.state import Progress, load_state, save_debug_bundle, save_state
from inpaint.training.task import InpaintingTask


class Trainer:
    """One run from its start or last checkpoint to its end. Every process has one and calls it alike.

    What it is given the caller has opened and closes; the run's folder is open on the main process alone.
    """

    def __init__(
        self,
        config: Config,
        options: Options,
        runtime: Runtime,
        run: RunDirectory,
        stop: StopRequest,
        heartbeat: Heartbeat,
        images: dict[Any, Any],
    ) -> None:
        self.config, self.runtime, self.run_directory, self.heartbeat = config, runtime, run, heartbeat
        training = config.training
        self.store = CheckpointStore(run.path / "checkpoints", config.checkpointing.keep)
        is_new = not runtime.broadcast(self.store.steps() if runtime.is_main else None)
        self.task = InpaintingTask(config, runtime, options.init_from if is_new else None)
        num_profiled = options.profile if runtime.is_main else 0
        self.profiler = Profiler(num_profiled, run.path / "profile", *self.task.networks.values())
        self.meter, self.throughput = Meter(runtime), Throughput(runtime)
        self.evaluator = Evaluator(runtime, images, config)
        processes = (runtime.rank, runtime.world_size, runtime.device, runtime.dtype)
        self.feed = BatchLoader(images["train"], config.data, training.seed, training.global_batch_size, *processes)
        self._set_progress(Progress())
        self.publication = Publication(runtime, run, self.store, config)
        self.console = Console(runtime.is_main)
        self.stop_sync = StopSync(runtime, stop, config.checkpointing.every_minutes, self.store.wants_retry)
        self.data_digest = digest_of(images["validation"])
        self._compiled: set[str] = set()

    def run(self) -> str:
        """Train to the end or until asked to stop; InpaintError if the run cannot go on.

        It ended `finished`, `preempted`, or `unsaved (why)` if the last state could not be written.
        """
        self.heartbeat.busy("reading the last checkpoint")
        self._restore()
        if self.progress.step == 0:
            self._save()
            self.store.wait()
            if failure := self.runtime.broadcast(str(self.store.take_failure() or "")):
                raise InpaintError(f"the first checkpoint cannot be written ({failure}); nothing was trained")
        if self._done() and self.runtime.broadcast(finished_step(self.run_directory.path)) == self.progress.step:
            return "finished"
        if self.runtime.is_main:
            self.run_directory.save_config(self.config)
        batch = self.config.training.global_batch_size
        self.console.begin(self.progress.step * batch, self.total_steps * batch)
        try:
            outcome = self._train()
        finally:
            self.console.end()
        return outcome if outcome is not None else self._finish()

    def _train(self) -> str | None:
        """All steps that are left; None if they were done, else how it ended before that."""
        started, before = time.monotonic(), self.progress.seconds
        batches = self.feed.batches(self.progress.epoch, self.progress.position)
        try:
            while not self._done():
                self.progress.seconds = before + time.monotonic() - started
                if self.progress.position == self.feed.steps_per_epoch:
                    if self._end_epoch():  # it is judged here if the run was stopped before that
                        return self._leave("preempted")
                    self.progress.next_epoch()
                try:
                    if self._step(batches) == STOP:
                        return self._leave("preempted")
                except NonFiniteError as error:
                    batches.close()
                    self._roll_back(error)
                    batches = self.feed.batches(self.progress.epoch, self.progress.position)
        finally:
            batches.close()
        return None

    def _step(self, batches: Any) -> int:
        """One step of training and all that is due after it; returns what the processes decided."""
        progress, training = self.progress, self.config.training
        self.heartbeat.at(f"step {progress.step + 1}, waiting for data")
        phase = self.phases.at(progress.position, progress.images_seen)
        self._keep_reconstruction(phase)
        self.profiler.at(phase)
        self.throughput.begin_step()
        with self.profiler.span("data wait"):
            batch = next(batches)
        self.throughput.got_batch()
        info = StepInfo(progress.step + 1, progress.epoch, progress.position, phase)
        self._at(f"step {info.step}, phase {phase}", f"phase {phase}")
        if [info.epoch, info.position] not in progress.skipped:
            images_seen = progress.images_seen + training.global_batch_size
            scale = self.learning_rate.of_step(images_seen, training.global_batch_size)
            micro_batches = batch.split(self.runtime.micro_batch_size)
            adversary = self.phases.adversarial_scale(images_seen, self.config.loss.adversarial_warmup_kimg)
            self.meter.add(info, self.task.step(phase, micro_batches, info.step, images_seen, scale, adversary))
        progress.phase = phase
        progress.advance(training.global_batch_size)
        self.console.advance(training.global_batch_size, f"epoch {info.epoch}/{training.epochs} phase {phase}")
        if progress.step % training.log_every == 0 or self._done():
            self._log(info)
        stopped = progress.position == self.feed.steps_per_epoch and self._end_epoch()
        decision = self.stop_sync.decide()
        if stopped or decision == STOP:
            self._log(info)
            return STOP
        every = self.config.checkpointing.every_steps
        if decision == SAVE or (every is not None and progress.step % every == 0):
            self._save()
        return NOTHING

    def _keep_reconstruction(self, phase: int) -> None:
        """Before a step of `phase`: keep the end of phase 1, where that is over for the whole run."""
        training = self.config.training
        if phase == 1:
            self.task.reconstruction = {}
        elif self.progress.phase == 1 and training.phases_per == "run" and training.phases[2]:
            self.throughput.pause()
            self.task.keep_reconstruction()

    def _stop_now(self) -> bool:
        self._at(f"step {self.progress.step}, held-out images", "held-out images")
        return self.stop_sync.stop_now()

    def _at(self, where: str, part: str) -> None:
        """Tell the heartbeat; a compiler, at work where a `part` of training runs first, takes as long as it needs."""
        compiles = self.config.training.compile and part not in self._compiled
        self._compiled.add(part)
        (self.heartbeat.busy if compiles else self.heartbeat.at)(where)

    def _log(self, info: StepInfo) -> None:
        batch_size = self.config.training.global_batch_size
        figures = self.meter.compute() | self.throughput.compute(batch_size)
        if failure := self.store.take_failure():
            self._shout(failure)
        if not self.runtime.is_main or not figures:
            return
        line = {**asdict(info), "images_seen": self.progress.images_seen, **figures}
        line["learning_rate_factor"] = self.learning_rate.of_step(self.progress.images_seen, batch_size)
        line |= {"time/total_s": round(self.progress.seconds, 3), "total_steps": self.total_steps}
        if self.progress.rollbacks:
            line["rollbacks"] = self.progress.rollbacks
        self.run_directory.log(line)
        self.console.show(figures)

    def _end_epoch(self) -> bool:
        """Judge the epoch that has just ended; returns whether a stop was asked for meanwhile."""
        epoch, push_every = self.progress.epoch, self.config.hub.push_every
        self.throughput.pause()
        best_by = self.config.evaluation.best_by
        if best_by == "last" or not self.progress.best_step:
            self.publication.save(self.task, self.progress)
        if self.progress.evaluated_epoch >= epoch or epoch % self.config.evaluation.every_epochs:
            return False
        try:
            figures = self.evaluator.validate(self.task.evaluation_module, self._stop_now)
        except InpaintError:  # in all processes: what was trained shall not be lost with it
            self._leave("")
            raise
        if figures is None:
            return True
        grid = self.evaluator.save_samples(self.task.evaluation_module, self.run_directory, epoch)
        self.progress.evaluated_epoch = epoch
        if self.runtime.is_main:
            images_seen = self.progress.images_seen
            phase = self.phases.at(self.progress.position - 1, images_seen - self.config.training.global_batch_size)
            line = {"step": self.progress.step, "epoch": epoch, "phase": phase, "images_seen": images_seen}
            judged = {f"evaluation/{name}": value for name, value in figures.items()}
            health = self.run_directory.log_evaluation({**line, **judged}, grid)
            self.console.say(f"epoch {epoch}, on validation images: {sentence(figures)}")
            for verdict in health:
                self.console.say(f"epoch {epoch}, {verdict}")
        if is_best := self.progress.is_best(figures, best_by):
            if best_by != "last":  # before the checkpoint says that it was done
                self.publication.save(self.task, self.progress, again=True)
            self._save()
            if self.runtime.is_main:
                with self.run_directory.tolerate_io_errors(BEST):
                    self.store.set_best(self.progress.step, figures)
        if push_every == "epoch" or (push_every == "best" and is_best):
            self.publication.push(f"epoch-{epoch:04d}" if push_every == "epoch" else "best")
        return False

    def _save(self) -> None:
        """Begin a checkpoint, unless the steps since the last look were not all finite."""
        self.heartbeat.busy(f"step {self.progress.step}, saving a checkpoint")
        self.throughput.pause()
        self.meter.check()
        save_state(self.store, self.runtime, self.task, self.progress, self.config, self.data_digest)
        self.stop_sync.saved()

    def _restore(self) -> None:
        progress = load_state(self.store, self.runtime, self.task, self.config, self.data_digest)
        self._set_progress(progress or Progress())
        self.meter.reset()
        self.throughput.reset()
        if self.runtime.is_main:
            self.run_directory.forget_after(self.progress.step, self.progress.evaluated_epoch)
            self.run_directory.track(self.config, self.progress.step)
            if self.progress.best_step and (self.store.best() or {}).get("step") != self.progress.best_step:
                with self.run_directory.tolerate_io_errors(BEST):  # damaged, or of a checkpoint that is
                    self.store.set_best(self.progress.best_step, {"hole_psnr": self.progress.best_hole_psnr})
            if self.progress.step:
                at = f"at step {self.progress.step} of {self.total_steps}"
                last = (self.config.training.epochs, self.feed.steps_per_epoch)
                limit = "epochs" if (self.progress.epoch, self.progress.position) >= last else "max_steps"
                over = f"this run is finished, {at}; a larger training.{limit} extends it"
                self.console.say(over if self._done() else f"resuming {at}")

    def _roll_back(self, error: NonFiniteError) -> None:
        """Go back to the last checkpoint and leave the batch out that broke the run, or give up."""
        rollbacks = self.progress.rollbacks + 1
        skipped = [*self.progress.skipped, [error.info.epoch, error.info.position]]
        bundle = self.run_directory.path / "debug" / f"step_{error.info.step:08d}"
        if self.runtime.is_main:
            with self.run_directory.tolerate_io_errors(str(bundle)):
                save_debug_bundle(bundle, error, self.feed, self.config)
        if rollbacks > self.config.training.max_rollbacks:
            raise InpaintError(
                f"{error}, after {rollbacks - 1} returns to a checkpoint (training.max_rollbacks); the batch is in "
                f"{bundle}; lower the learning rates, set optimizer.gradient_clip, or look at the images"
            )
        self.console.say(f"{error}: back to the last checkpoint, without that batch ({bundle})")
        self._restore()
        self.progress.skipped, self.progress.rollbacks = skipped, rollbacks
        self.console.rewind(self.progress.step * self.config.training.global_batch_size)

    def _set_progress(self, progress: Progress) -> None:
        """Go on from `progress`; what is left is counted from there, for the batch may have been another until then."""
        progress.position = min(progress.position, self.feed.steps_per_epoch)
        self.progress = progress
        left = progress.steps_left(self.config.training, self.feed.steps_per_epoch)
        self.total_steps = progress.step + left
        total_images = progress.images_seen + left * self.config.training.global_batch_size
        self.learning_rate = LearningRate(self.config.optimizer, total_images)
        self.phases = Phases(self.config.training, self.feed.steps_per_epoch, total_images)

    def _done(self) -> bool:
        return self.progress.step >= self.total_steps

    def _leave(self, outcome: str) -> str:
        """Save what there is and wait until it is on the disk."""
        self.profiler.at(None)
        self._save()
        self.store.wait()
        if failure := self.runtime.broadcast(str(self.store.take_failure() or "")):
            self._shout(failure)
            return f"unsaved ({failure})"
        return outcome

    def _finish(self) -> str:
        """Judge and save the finished generator."""
        if len(self.progress.skipped) >= self.progress.step:
            raise InpaintError(
                f"all {self.progress.step} steps were skipped, since their losses were not finite; "
                "nothing was trained: look at debug/ in the run directory, and begin anew with other losses"
            )
        if self.progress.position == self.feed.steps_per_epoch and self._end_epoch():
            return self._leave("preempted")
        outcome = self._leave("finished")
        self.heartbeat.busy("judging the finished generator")
        best = self.publication.best(self.progress)
        module = self.task.evaluation_module if best is None else best
        facts = self.progress.facts() | self.throughput.summary | self.publication.judged(self.progress)
        report = self.evaluator.finish(module, self.run_directory, facts, self._stop_now)
        if report is None:
            return "preempted" if outcome == "finished" else outcome
        # With the figures in its card now, and again if there was no room for it.
        self.publication.save(self.task, self.progress, again=True, best=best)
        if self.runtime.is_main:
            print(f"\n{report}", flush=True)
        if missing := self.runtime.broadcast(self.run_directory.unwritten):
            return f"unsaved ({', '.join(missing)})" if outcome == "finished" else outcome
        self.publication.push("final")
        if self.runtime.is_main:
            self.run_directory.mark_finished(self.progress.step)
            print(f"saved: {self.run_directory.path / 'generator'}", flush=True)
        return outcome

    def _shout(self, failure: Exception | str) -> None:
        self.console.say(
            f"A CHECKPOINT COULD NOT BE SAVED: {failure}. Training goes on; the last sound one is "
            f"step {max(self.store.steps(), default='none')}."
        )
