"""The only training loop: anything `Trainable`, exact under accumulation, exact under resume, on one process or many.

All randomness is keyed by the step and all state is in model and optimiser, so a resumed run needs no sampler state.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from medssl.core.batch import Loaded, Progress, Trainable, Views
from medssl.core.collectives import rank, world_size
from medssl.core.errors import Diverged, Preempted, TrainingError
from medssl.core.keys import hash_words
from medssl.core.progress import bar, stderr
from medssl.core.score import Score
from medssl.engine import checkpoint
from medssl.engine.distributed import agreed, told, whole
from medssl.engine.meter import Meter
from medssl.engine.monitors.base import Monitor, Remembering
from medssl.engine.nonfinite import capture
from medssl.engine.optim import LoopConfig
from medssl.engine.step import Stepper

NON_FINITE_LIMIT = 5  # steps in a row
SCALE_LIMIT = 30  # fp16's first scale, 2**16, halves at each overflow
BEST = "knn"  # the monitors' figure that the best checkpoint is kept by


class Feed(Protocol):
    """Where batches come from: one list of micro-batches an optimiser step, from any step on."""

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps an epoch."""

    def steps(self, first: int, total: int) -> Iterator[list[Loaded]]:
        """Yield the micro-batches of steps ``first … total - 1``."""


class Record(Protocol):
    """The part of a journal that training writes to."""

    def metrics(self, step: int, values: Mapping[str, float | Score]) -> None:
        """Record figures at a step."""

    def note(self, text: str) -> None:
        """Record a remark worth reviewing."""

    def artifact(self, path: Path, folder: str = "") -> None:
        """Record a file of the run."""


@dataclass(frozen=True)
class Session:
    """Where one training run keeps its state and says what it does.

    ``identity`` is what a resume must find unchanged; ``volumes`` names the feed's rows in notes; ``hint`` says how to
    go on after a stop; ``stop_after`` ends early as if pre-empted (for drills); not ``recoverable``, it writes no
    checkpoints.
    """

    folder: Path
    journal: Record
    identity: Mapping[str, Any] = field(default_factory=dict)
    monitors: Sequence[Monitor] = ()
    resume: bool = False
    stop_after: int | None = None
    recoverable: bool = True
    seed: int = 0
    volumes: Sequence[str] = ()
    hint: str = "go on with --resume"
    description: str = "train"

    def say(self, text: str) -> None:
        """Show ``text`` and note it."""
        stderr.print(text, style="yellow", markup=False)
        self.journal.note(text)


def train(model: nn.Module, feed: Feed, config: LoopConfig, session: Session, device: torch.device) -> Progress:
    """Train ``model`` (a `Trainable`) to the end of ``config.epochs``.

    Raises:
        Preempted: SIGTERM came; a checkpoint was saved.
        Diverged: the loss stayed non-finite.
        TrainingError: a checkpoint is of another study or cannot be written.
    """
    if not isinstance(model, Trainable):
        raise TypeError(f"{type(model).__name__} is not Trainable")
    model.to(device).train()
    with reproducible(device):
        return _train(model, feed, config, session, device)


@contextmanager
def reproducible(device: torch.device) -> Iterator[None]:
    """Let operations on a CPU add in one order, however many threads there are; on other devices nothing changes."""
    was, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    fills = memory.fill_uninitialized_memory
    if device.type == "cpu":
        torch.use_deterministic_algorithms(True, warn_only=True)
        memory.fill_uninitialized_memory = False  # only costs time
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was, warn_only=warns)
        memory.fill_uninitialized_memory = fills


def _train(model: Any, feed: Feed, config: LoopConfig, session: Session, device: torch.device) -> Progress:
    stepper, an_epoch = Stepper(model, config, device), feed.steps_per_epoch
    total, keeper = config.epochs * an_epoch, Keeper(session, stepper, config)
    first = keeper.resume() if session.resume else 0
    meter, progress, is_due = Meter(), Progress(first, total, first // an_epoch), False
    with stop_on_sigterm() as stopping, bar(session.description, total, first) as shown:
        batches = feed.steps(first, total)
        for step in range(first, total):
            micro = meter.fetch(batches, device)
            with keyed_generator(device, session.seed, step):
                output = stepper.take(micro, progress)
            progress = Progress(step + 1, total, (step + 1) // an_epoch)
            if output is not None:
                meter.add(output, sum(map(len, micro)) * world_size())
                model.on_step_end(progress)
            keeper.judge(micro, Progress(step, total, step // an_epoch), taken=output is not None)
            report(keeper, model, progress, meter, config, is_epoch_end=progress.step % an_epoch == 0)
            shown.advance(text=f"epoch {step // an_epoch + 1} · {meter.text()}".rstrip(" ·"))
            last, asked = step + 1 == total, agreed(stopping.is_set()) or step + 1 == session.stop_after
            is_due = is_due or (step + 1) % (config.checkpoint_epochs * an_epoch) == 0
            is_due = is_due or ((step + 1) % config.log_steps == 0 and told(keeper.is_late))
            if session.recoverable and (last or asked or (is_due and not keeper.failing)):
                is_due = False
                with meter.paused():
                    keeper.save(step + 1, must=last or asked)
            if asked and not last:
                kept = "with" if session.recoverable else "without"
                raise Preempted(f"stopped at step {step + 1} of {total} {kept} a checkpoint; {session.hint}")
    return progress


class Keeper:
    """Keeps a run recoverable: its checkpoints, its best one, and what to do when a loss is not finite."""

    def __init__(self, session: Session, stepper: Stepper, config: LoopConfig) -> None:
        self.session, self.stepper, self.config = session, stepper, config
        self._best: float | None = None
        self._failures = self._overflows = self._rollbacks = 0
        self._saved = time.monotonic()

    @property
    def failing(self) -> bool:
        """Whether the last step was skipped, so that a rollback is to lead further back."""
        return self._failures + self._overflows > 0

    @property
    def is_late(self) -> bool:
        """Whether the last checkpoint, or the start, is too many minutes ago; where rollbacks lead no clock decides."""
        most = self.config.checkpoint_minutes
        return most is not None and not self.config.rollbacks and time.monotonic() - self._saved > 60 * most

    def resume(self) -> int:
        """Restore the newest checkpoint and return its step."""
        checkpoint.sweep(self.session.folder)
        state = checkpoint.load(self.session.folder, self.stepper, self.session.identity, self.session.say)
        self._best, self._failures, self._rollbacks = (
            state["kept"][name] for name in ("best", "failures", "rollbacks")
        )
        self._overflows = state["kept"].get("overflows", 0)  # which older checkpoints do not say
        for monitor, seen in zip(self._remembering(), state["kept"].get("monitors", ()), strict=False):
            monitor.recall(seen)
        return int(state["step"])

    def save(self, step: int, *, must: bool) -> None:
        """Write a checkpoint; where the disk is full, training goes on unless this one ``must`` be."""
        self._saved = time.monotonic()
        try:
            state = self._state(step)
            checkpoint.save(self.session.folder, state, keep=self.config.keep_checkpoints)
        except TrainingError as error:
            if must:
                raise
            self.session.say(f"step {step}: {error}")

    def look(self, step: int, figures: Mapping[str, float | Score]) -> None:
        """Keep the model as the best one where ``figures`` say so."""
        if BEST not in figures:
            return
        seen = figures[BEST]
        value = told(seen.value if isinstance(seen, Score) else seen)  # ranks may round otherwise; saving needs all
        if self._best is not None and value <= self._best:
            return
        self._best = value
        try:
            checkpoint.save_best(self.session.folder, self._state(step))
        except TrainingError as error:
            self.session.say(f"step {step}: {error}")

    def _state(self, step: int) -> checkpoint.State:
        remembered: dict[str, Any] = {"best": self._best, "failures": self._failures, "rollbacks": self._rollbacks}
        remembered |= {"overflows": self._overflows, "monitors": [m.remembered() for m in self._remembering()]}
        return checkpoint.state_of(self.stepper, step, self.session.identity, **remembered)

    def _remembering(self) -> list[Remembering]:
        return [monitor for monitor in self.session.monitors if isinstance(monitor, Remembering)]

    def judge(self, micro: list[Views], progress: Progress, *, taken: bool) -> None:
        """Capture a batch whose loss or gradient was not finite; after several in a row roll back, or give up.

        A gradient of fp16 overflows while its scale is sought; those steps are skipped without a word, up to a limit.
        """
        if taken:
            self._failures = self._overflows = 0
            return
        session, step = self.session, progress.step
        if self.stepper.overflowed:
            self._overflows += 1
        else:
            self._failures += 1
            said = f"step {step}: loss or gradient not finite, step skipped; its batch "
            try:
                path = capture(session.folder, progress, session.seed, micro, session.volumes, self.stepper.model)
                session.journal.artifact(path, "nonfinite")
                session.journal.note(f"{said}is in {path.name}")
            except OSError as error:  # a full disk costs the record, not the run
                session.say(f"{said}could not be kept ({error.strerror})")
        if self._failures < NON_FINITE_LIMIT and self._overflows < SCALE_LIMIT:
            return
        if self._rollbacks < self.config.rollbacks and checkpoint.kept(session.folder):
            state = checkpoint.newest(session.folder, session.say)
            checkpoint.restore(self.stepper, state)
            self._rollbacks, self._failures, self._overflows = self._rollbacks + 1, 0, 0
            session.say(f"step {step}: weights rolled back to those of step {state['step']}; the data go on")
            return
        raise Diverged(
            f"loss or gradient not finite in {self._failures + self._overflows} steps in a row, up to {step}; "
            "lower loop.lr or set loop.clip_norm"
        )


def report(
    keeper: Keeper, model: nn.Module, progress: Progress, meter: Meter, config: LoopConfig, *, is_epoch_end: bool
) -> None:
    """Log figures every ``log_steps``, and whatever the monitors saw."""
    figures: dict[str, float] = {}
    journal = keeper.session.journal
    if progress.step % config.log_steps == 0 or progress.step == progress.total_steps:
        figures = {**meter.flush(), "lr": keeper.stepper.rate}
        journal.metrics(progress.step, figures)
    with meter.paused(), whole(model) if figures or is_epoch_end else nullcontext():
        seen = []
        for monitor in keeper.session.monitors:
            try:
                seen.append(monitor.after_step(model, progress, figures))
            except OSError as error:  # a full disk costs a picture, not the run
                keeper.session.say(f"step {progress.step}: {type(monitor).__name__} failed ({error.strerror})")
    for one in seen:
        if one is not None:
            if one.figures:
                journal.metrics(progress.step, one.figures)
            for alarm in one.alarms:
                keeper.session.say(f"step {progress.step}: {alarm}")
            for picture in one.pictures:
                journal.artifact(picture, "pictures")
            keeper.look(progress.step, one.figures)


@contextmanager
def keyed_generator(device: torch.device, seed: int, step: int) -> Iterator[None]:
    """Give drop-path and the like a generator that depends on seed, step and rank alone, and put the old one back."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(hash_words("step", seed, step, *([rank()] if rank() else [])) & (2**63 - 1))
        yield


@contextmanager
def stop_on_sigterm() -> Iterator[threading.Event]:
    """Yield an event that SIGTERM sets while the block runs (only the main thread may listen to signals)."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)
