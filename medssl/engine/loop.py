"""The only training loop: anything `Trainable`, exact under accumulation, exact under resume.

A step draws its micro-batches first, so that each loss weighs by its share of the whole step's normaliser; then
``k × b`` accumulated equals ``1 × kb``. All randomness is keyed by the step, so a resumed run needs no sampler state.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from medssl.core.batch import Loaded, Progress, StepOutput, Trainable, Views
from medssl.core.errors import Preempted, TrainingError
from medssl.core.keys import hash_words
from medssl.core.progress import bar, stderr
from medssl.engine import checkpoint
from medssl.engine.monitors.base import Monitor
from medssl.engine.optim import LoopConfig, build_optimiser, learning_rate

NON_FINITE_LIMIT = 5


class Feed(Protocol):
    """Where batches come from: one list of micro-batches an optimiser step, from any step on."""

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps an epoch."""

    def steps(self, first: int, total: int) -> Iterator[list[Loaded]]:
        """Yield the micro-batches of steps ``first … total - 1``."""


class Metrics(Protocol):
    """The part of a journal that training writes to."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Record figures at a step."""

    def note(self, text: str) -> None:
        """Record a remark worth reviewing."""


@dataclass(frozen=True)
class Session:
    """Where one training run keeps its state and says what it does.

    ``identity`` is what a resume must find unchanged; ``volumes`` names the feed's rows in notes; ``hint`` says how to
    go on after a stop; ``stop_after`` ends early as if pre-empted (for drills).
    """

    folder: Path
    journal: Metrics
    identity: Mapping[str, Any] = field(default_factory=dict)
    monitors: Sequence[Monitor] = ()
    resume: bool = False
    stop_after: int | None = None
    seed: int = 0
    volumes: Sequence[str] = ()
    hint: str = "go on with --resume"
    description: str = "train"


def device_for(requested: str | None = None) -> torch.device:
    """Return the device asked for, else CUDA where there is one, else the CPU."""
    return torch.device(requested or ("cuda" if torch.cuda.is_available() else "cpu"))


def train(model: nn.Module, feed: Feed, config: LoopConfig, session: Session, device: torch.device) -> Progress:
    """Train ``model`` (a `Trainable`) to the end of ``config.epochs``.

    Raises:
        Preempted: SIGTERM came; a checkpoint was saved.
        TrainingError: the loss stayed non-finite, or the checkpoint is of another study.
    """
    if not isinstance(model, Trainable):
        raise TypeError(f"{type(model).__name__} is not Trainable")
    model.to(device).train()
    optimiser = build_optimiser(model.parameter_groups(config.weight_decay), config)
    total = config.epochs * feed.steps_per_epoch
    first = checkpoint.load(session.folder, model, optimiser, session.identity) if session.resume else 0
    meter, failures, progress = Meter(), 0, Progress(first, total)
    with stop_on_sigterm() as stopping, bar(session.description, total, first) as shown:
        batches = feed.steps(first, total)
        for step in range(first, total):
            micro = meter.fetch(batches, device)
            rate = learning_rate(step, total, config)
            with keyed_generator(device, session.seed, step):
                now = Progress(step, total, step // feed.steps_per_epoch)
                output = optimise(model, optimiser, micro, now, rate, config, device)
            failures = 0 if output is not None else failures + 1
            progress = Progress(step + 1, total, (step + 1) // feed.steps_per_epoch)
            if output is None:
                skip(session, micro, step, failures)
            else:
                meter.add(output, sum(map(len, micro)))
                model.on_step_end(progress)
            report(session, model, progress, meter, rate, config)
            shown.advance(text=meter.text())
            last, asked = step + 1 == total, stopping.is_set() or step + 1 == session.stop_after
            if last or asked or (step + 1) % (config.checkpoint_epochs * feed.steps_per_epoch) == 0:
                checkpoint.save(session.folder, model, optimiser, step + 1, session.identity)
            if asked and not last:
                raise Preempted(f"stopped at step {step + 1} of {total} with a checkpoint; {session.hint}")
    return progress


def optimise(
    model: Any,
    optimiser: torch.optim.Optimizer,
    micro: list[Views],
    progress: Progress,
    rate: float,
    config: LoopConfig,
    device: torch.device,
) -> StepOutput | None:
    """Take one optimiser step over its micro-batches; return the mean output, or None (no step) if it is not finite."""
    weights = [model.normaliser(batch) for batch in micro]
    total = torch.stack(weights).sum()
    buffers = [buffer.clone() for buffer in model.buffers()]
    loss, figures = torch.zeros((), device=device), dict[str, Tensor]()
    optimiser.zero_grad(set_to_none=True)
    for batch, weight in zip(micro, weights, strict=True):
        share = (weight / total).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            output = model.training_step(batch, progress)
        (output.loss * share).backward()
        loss = loss + output.loss.detach() * share
        for name, value in output.metrics.items():
            figures[name] = figures.get(name, torch.zeros_like(value)) + value * share
    for group in optimiser.param_groups:
        group["lr"] = rate * group["lr_scale"]
    params = [p for group in optimiser.param_groups for p in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(params, config.clip_norm or float("inf"))
    if not (torch.isfinite(loss) and torch.isfinite(norm)):
        for buffer, before in zip(model.buffers(), buffers, strict=True):
            buffer.copy_(before)  # batch-norm statistics saw the bad batch
        return None
    optimiser.step()
    return StepOutput(loss, {**figures, "gradient_norm": norm})


def skip(session: Session, micro: list[Views], step: int, failures: int) -> None:
    """Note a batch whose loss or gradient was not finite; give up after several in a row."""
    rows = torch.cat([batch.volume for batch in micro]).tolist()
    names = [session.volumes[row] for row in rows] if session.volumes else rows
    session.journal.note(f"step {step}: loss or gradient not finite, step skipped; volumes {names}")
    if failures >= NON_FINITE_LIMIT:
        raise TrainingError(
            f"loss or gradient not finite in {failures} steps in a row, up to {step}; lower loop.lr or set clip_norm"
        )


def report(
    session: Session, model: nn.Module, progress: Progress, meter: Meter, rate: float, config: LoopConfig
) -> None:
    """Log figures every ``log_steps``, and whatever the monitors saw."""
    figures: dict[str, float] = {}
    if progress.step % config.log_steps == 0 or progress.step == progress.total_steps:
        figures = {**meter.flush(), "lr": rate}
        session.journal.metrics(progress.step, figures)
    for monitor in session.monitors:
        seen = monitor.after_step(model, progress, figures)
        if seen is not None:
            session.journal.metrics(progress.step, seen.figures)
            for alarm in seen.alarms:
                session.journal.note(f"step {progress.step}: {alarm}")
                stderr.print(f"[yellow]step {progress.step}: {alarm}[/]")


class Meter:
    """Averages figures between two reports, and how long the loop waited for data."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._steps = self._images = 0
        self._waited, self._since = 0.0, time.perf_counter()
        self._last: dict[str, float] = {}

    def fetch(self, batches: Iterator[list[Loaded]], device: torch.device) -> list[Views]:
        """Take the next micro-batches, timing the wait, and draw their views."""
        start = time.perf_counter()
        loaded = next(batches)
        self._waited += time.perf_counter() - start
        return [batch.views(device) for batch in loaded]

    def add(self, output: StepOutput, images: int) -> None:
        """Count one step."""
        for name, value in {"loss": output.loss, **output.metrics}.items():
            self._sums[name] = self._sums.get(name, torch.zeros(())) + value.detach().cpu()
        self._steps, self._images = self._steps + 1, self._images + images

    def flush(self) -> dict[str, float]:
        """Return the means since the last flush, images a second and the fraction of time spent waiting for data."""
        seconds = max(time.perf_counter() - self._since, 1e-9)
        self._last = {name: float(value) / max(self._steps, 1) for name, value in self._sums.items()}
        self._last |= {"images_per_second": self._images / seconds, "data_wait": self._waited / seconds}
        self._sums, self._steps, self._images = {}, 0, 0
        self._waited, self._since = 0.0, time.perf_counter()
        return dict(self._last)

    def text(self) -> str:
        """Return the last means as one short line."""
        shown = {"loss": "{:.4f}", "images_per_second": "{:.0f} images/s", "data_wait": "wait {:.2f}"}
        return " · ".join(form.format(self._last[name]) for name, form in shown.items() if name in self._last)


@contextmanager
def keyed_generator(device: torch.device, seed: int, step: int) -> Iterator[None]:
    """Give drop-path and the like a generator that depends on seed and step alone, and put the old one back."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(hash_words("step", seed, step) & (2**63 - 1))
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
