"""What the run takes of its machine: processor, memory, accelerator, disk."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from medssl.core.batch import Progress
from medssl.engine.monitors.base import Observation

GIB = 2**30


@dataclass
class SystemMonitor:
    """Read the machine's figures at each report; those that it does not offer are left out.

    ``system/cpu_cores``: cores kept busy by this process since the last report. ``system/load``: of the machine, a
    core. ``system/rss_gib``: resident memory of this process. ``system/disk_free_gib``: where ``folder`` lies.
    ``system/gpu_memory_gib``, ``system/gpu_peak_gib``: held now, used at most; ``system/gpu_busy``: share of time.
    """

    folder: Path
    _since: tuple[float, float] = field(default_factory=lambda: (time.perf_counter(), time.process_time()), init=False)

    def after_step(self, model: nn.Module, progress: Progress, figures: Mapping[str, float]) -> Observation | None:
        """Return the figures where there is a report."""
        if not figures:
            return None
        now, (wall, busy) = (time.perf_counter(), time.process_time()), self._since
        self._since = now
        seen = {
            "cpu_cores": (now[1] - busy) / max(now[0] - wall, 1e-9),
            "load": os.getloadavg()[0] / (os.cpu_count() or 1),
            "disk_free_gib": shutil.disk_usage(self.folder).free / GIB,
        }
        with suppress(OSError):  # Linux only
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            seen["rss_gib"] = pages * os.sysconf("SC_PAGE_SIZE") / GIB
        if torch.cuda.is_available():
            seen |= gpu()
        return Observation({f"system/{name}": value for name, value in seen.items()})


def gpu() -> dict[str, float]:
    """Return the memory held by this process, its peak and, where the driver tells, how busy the device is."""
    seen = {
        "gpu_memory_gib": torch.cuda.memory_reserved() / GIB,
        "gpu_peak_gib": torch.cuda.max_memory_allocated() / GIB,
    }
    with suppress(ImportError):
        from pynvml import NVMLError

        with suppress(NVMLError, RuntimeError):  # a device in parts does not say
            seen["gpu_busy"] = torch.cuda.utilization() / 100
    return seen
