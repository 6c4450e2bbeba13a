"""Checkpoints appear whole, say which study they belong to, and bring back every bit of state.

``checkpoints/step-00000120.pt`` holds model, optimiser, scaler and step; the last few are kept, and the best one,
``best-00000080.pt``. There is no generator to save: the loop keys it by seed and step, and the sampler is a function of
the step. Tensors are saved whole, so that a run goes on with another number of processes.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import nn

from medssl.core.collectives import rank
from medssl.core.errors import TrainingError
from medssl.core.files import atomic
from medssl.engine.distributed import alone, full, sharded
from medssl.engine.step import Stepper

FOLDER = "checkpoints"
State = dict[str, Any]


def kept(folder: Path) -> list[Path]:
    """Return the checkpoints of a run, the newest first."""
    return sorted((folder / FOLDER).glob("step-*.pt"), reverse=True)


def state_of(stepper: Stepper, step: int, identity: Mapping[str, Any], **kept: Any) -> State:
    """Return what a run goes on from; a collective. ``identity`` is flat JSON that a resume must match.

    ``kept``: what else the run remembers (its best figure, how often it failed).
    """
    return {
        "model": full(stepper.model.state_dict()),
        "optimiser": full(stepper.optimiser.state_dict()),
        "scaler": stepper.scaler.state_dict(),
        "step": step,
        "kept": kept,
        "identity": dict(identity),
    }


def save(folder: Path, state: State, *, keep: int) -> None:
    """Write a checkpoint and drop all but the last ``keep``; rank 0 does, and all of them wait for it.

    Raises:
        TrainingError: it cannot be written; the ones before are untouched.
    """
    alone(lambda: _write(folder / FOLDER / f"step-{state['step']:08d}.pt", state))
    for old in kept(folder)[keep:] if rank() == 0 else ():
        _remove(old)


def save_best(folder: Path, state: State) -> None:
    """Write the checkpoint that a monitor liked best so far, then drop the one before; as `save`."""
    path = folder / FOLDER / f"best-{state['step']:08d}.pt"
    alone(lambda: _write(path, state))
    for old in _bests(folder) if rank() == 0 else ():
        if old != path:
            _remove(old)


def _bests(folder: Path) -> list[Path]:
    """Return the best checkpoint; two, the newest first, where a process was killed between writing and dropping."""
    return sorted((folder / FOLDER).glob("best-*.pt"), reverse=True)


def _write(path: Path, state: State) -> None:
    try:
        with atomic(path) as partial:
            torch.save(state, partial)
            with _digest_file(path).open("w") as handle:
                handle.write(_digest(partial))
                handle.flush()
                os.fsync(handle.fileno())
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError of its writer
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "write failed"
        free = shutil.disk_usage(path.parent).free / 2**30
        raise TrainingError(
            f"{path.parent.parent.name}/{FOLDER}/{path.name} cannot be written ({reason}, {free:.2f} GiB free); "
            "make room, then go on with --resume"
        ) from None


def _digest(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _digest_file(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _remove(path: Path) -> None:
    path.unlink()
    _digest_file(path).unlink(missing_ok=True)


def load(
    folder: Path, stepper: Stepper, identity: Mapping[str, Any], say: Callable[[str], None] = lambda _: None
) -> State:
    """Restore the newest readable checkpoint, drop damaged newer ones, and return it.

    Raises:
        TrainingError: none can be read, or it is of a changed study (says what changed).
    """
    state = newest(folder, say)
    changed = sorted(k for k in {*state["identity"], *identity} if state["identity"].get(k) != identity.get(k))
    if changed:
        was, now = state["identity"].get(changed[0]), identity.get(changed[0])
        others = f" (and {', '.join(changed[1:])})" if changed[1:] else ""
        raise TrainingError(
            f"--resume: {changed[0]} was {was!r} and is now {now!r}{others}; "
            "put it back, or start again without --resume"
        )
    restore(stepper, state)
    for path in kept(folder) if rank() == 0 else ():
        if path.name > f"step-{state['step']:08d}.pt":
            _remove(path)
    return state


def restore(stepper: Stepper, state: State) -> None:
    """Put a state back into model, optimiser and scaler, sharded as they are."""
    own = stepper.model.state_dict()
    stepper.model.load_state_dict({name: sharded(value, own[name]) for name, value in state["model"].items()})
    params = [p for group in stepper.optimiser.param_groups for p in group["params"]]
    moments = {
        index: {name: sharded(v, params[index]) if v.ndim else v for name, v in entry.items()}
        for index, entry in state["optimiser"]["state"].items()
    }
    stepper.optimiser.load_state_dict({**state["optimiser"], "state": moments})
    if stepper.scaler.is_enabled():
        stepper.scaler.load_state_dict(state["scaler"])


def load_model(folder: Path, model: nn.Module) -> None:
    """Restore the model alone from a finished run.

    Raises:
        TrainingError: no checkpoint can be read.
    """
    model.load_state_dict(newest(folder)["model"])


def newest(folder: Path, say: Callable[[str], None] = lambda _: None) -> State:
    """Return the newest state that can be read; a damaged one is said and passed over.

    Raises:
        TrainingError: none can be read.
    """
    found = kept(folder)
    state = _first_readable(found, say)
    if state is None:
        what = f"{len(found)} checkpoints cannot be read" if found else "no checkpoint"
        raise TrainingError(f"{folder.name}: {what}; train again without --resume")
    return state


def best(folder: Path) -> State:
    """Return the state that the run's monitors liked best.

    Raises:
        TrainingError: there is none, or it cannot be read.
    """
    found = _bests(folder)
    state = _first_readable(found)
    if state is None:
        what = f"{found[0].name} cannot be read" if found else "it kept none, having seen no kNN of labelled patients"
        raise TrainingError(f"{folder.name}:best: {what}; name the run alone for its last weights")
    return state


def _first_readable(paths: list[Path], say: Callable[[str], None] = lambda _: None) -> State | None:
    """Return the first state whose file has its digest; a damaged one is said."""
    for path in paths:
        try:
            if _digest_file(path).read_text() != _digest(path):
                raise ValueError
            state: State = torch.load(path, map_location="cpu", weights_only=True)
            return state
        except (OSError, RuntimeError, EOFError, ValueError, UnpicklingError) as error:
            say(f"{path.name} cannot be read ({type(error).__name__}); going back to the checkpoint before")
    return None


def sweep(folder: Path) -> None:
    """Remove what a killed process left half-written; rank 0 does."""
    for partial in (folder / FOLDER).glob(".*.partial") if rank() == 0 else ():
        partial.unlink()
