"""What commands share: their arguments, and the call of a verb."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from medssl.core.errors import MedsslError

DISTRIBUTED = ("pretrain", "embed")

StudyFile = Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="the study", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]…", help="e.g. method.mask_ratio=0.6", show_default=False)
]
PoolFolder = Annotated[Path, typer.Argument(metavar="POOL", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="print the result as JSON")]
Task = Annotated[str | None, typer.Option("--task", help="which of the study's tasks; not needed where there is one")]
EncoderOption = Annotated[
    str | None,
    typer.Option("--encoder", metavar="RUN|PATH[:best]", help="default: the latest that fits; :best, its best kNN"),
]
KeyFile = Annotated[
    Path | None, typer.Option("--key", metavar="FILE", help="default: ~/.config/medssl/key, made if absent")
]
Linkage = Annotated[
    Path | None, typer.Option("--linkage", metavar="FILE", help="pseudonyms and original ids; keep it safe")
]


def call(verb: str, *args: Any, as_json: bool, **kwargs: Any) -> None:
    """Run ``medssl.verbs.<module>:<function>`` and print what it returns."""
    module, function = verb.split(":")
    if os.environ.get("WORLD_SIZE", "1") != "1" and module not in DISTRIBUTED:
        raise MedsslError(f"{module} runs in one process; torchrun is for {' and '.join(DISTRIBUTED)}")
    result = getattr(import_module(f"medssl.verbs.{module}"), function)(*args, **kwargs)
    if os.environ.get("RANK", "0") != "0":
        raise typer.Exit(result.exit_code)  # rank 0 speaks for all
    if as_json:
        sys.stdout.write(json.dumps(result.data, indent=2, default=str) + "\n")
    else:
        console = Console(soft_wrap=True)
        for part in result.shown:
            console.print(part, highlight=False, markup=False)
    raise typer.Exit(result.exit_code)


def study_of(path: Path, overrides: list[str] | None) -> Any:
    """Return the study in a file, with overrides."""
    load: Callable[..., Any] = import_module("medssl.study").load_study
    return load(path, overrides or [])
