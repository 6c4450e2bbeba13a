"""``medssl doctor``: can this installation work? One line a check."""

from __future__ import annotations

import os
import platform
import shutil
from collections import Counter
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path

from rich.text import Text

from medssl.core.errors import MedsslError
from medssl.dicom.decode import DECODERS
from medssl.verbs.result import Result

PACKAGES = ("torch", "torchvision", "timm", "monai", "mlflow", "sklearn", "pydicom", "blosc2", "polars")


def doctor() -> Result:
    """Try every part that an installation can lack; exit code 2 where one is broken."""
    checks: dict[str, Callable[[], str]] = {
        "python": platform.python_version,
        **{name: partial(_version, name) for name in PACKAGES},
        "torchvision fits torch": _matching_pair,
        "devices": _devices,
        "DICOM decoders": _decoders,
        "disk": lambda: f"{shutil.disk_usage(Path.cwd()).free / 1e9:.0f} GB free here",
    }
    found, broken = {}, []
    for name, check in checks.items():
        try:
            found[name] = check()
        except Exception as error:  # a broken package raises whatever it likes; that is what we are here to say
            found[name] = f"broken: {' '.join(str(error).split())[:200]}"
            broken.append(name)
    mark = {name: ("✗ ", "red") if name in broken else ("✓ ", "green") for name in found}
    shown = tuple(Text.assemble(mark[name], f"{name}: {text}") for name, text in found.items())
    return Result({"checks": found, "broken": broken}, shown, 2 if broken else 0)


def _version(name: str) -> str:
    return str(import_module(name).__version__)


def _matching_pair() -> str:
    import torch
    import torchvision

    boxes, scores = torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1)
    torchvision.ops.nms(boxes, scores, 0.5)  # fails where the two are of different builds
    return f"{torchvision.__version__} runs its own operators"


def _devices() -> str:
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return ", ".join(names) or f"CPU only, {os.cpu_count()} cores"


def _decoders() -> str:
    missing = {d.package for syntax, d in DECODERS.items() if not d.is_installed(syntax)}
    if missing:
        raise MedsslError(f"install {' '.join(sorted(missing))}; until then files that need it are quarantined")
    num = Counter(decoder.package for decoder in DECODERS.values())
    return f"{len(DECODERS)} transfer syntaxes: " + ", ".join(f"{num[name]} by {name}" for name in sorted(num))
