"""Checkpoints appear whole, say which study they belong to, and bring back every bit of state."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import nn

from medssl.core.errors import TrainingError
from medssl.core.files import atomic

NAME = "checkpoint.pt"


def save(
    folder: Path, model: nn.Module, optimiser: torch.optim.Optimizer, step: int, identity: Mapping[str, Any]
) -> None:
    """Write model, optimiser and step; ``identity`` is flat JSON that a resume must match.

    There is no generator to save: the loop keys it by seed and step.
    """
    state = {
        "model": model.state_dict(),
        "optimiser": optimiser.state_dict(),
        "step": step,
        "identity": dict(identity),
    }
    with atomic(folder / NAME) as partial:
        torch.save(state, partial)


def load(folder: Path, model: nn.Module, optimiser: torch.optim.Optimizer, identity: Mapping[str, Any]) -> int:
    """Restore what `save` wrote and return the step to go on from.

    Raises:
        TrainingError: the checkpoint is damaged, or of a changed study (says what changed).
    """
    state = _read(folder)
    changed = sorted(k for k in {*state["identity"], *identity} if state["identity"].get(k) != identity.get(k))
    if changed:
        was, now = state["identity"].get(changed[0]), identity.get(changed[0])
        others = f" (and {', '.join(changed[1:])})" if changed[1:] else ""
        raise TrainingError(
            f"--resume: {changed[0]} was {was!r} and is now {now!r}{others}; "
            "put it back, or start again without --resume"
        )
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["step"])


def load_model(folder: Path, model: nn.Module) -> None:
    """Restore the model alone from a finished run.

    Raises:
        TrainingError: the checkpoint is damaged.
    """
    model.load_state_dict(_read(folder)["model"])


def _read(folder: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(folder / NAME, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, UnpicklingError) as error:
        reason = type(error).__name__
        raise TrainingError(f"{folder.name}/{NAME} cannot be read ({reason}); train again without --resume") from None
    return state
