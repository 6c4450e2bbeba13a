"""Processes that end with the one that started them, however that ended."""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing.process import BaseProcess
from threading import Thread


def end_with_parent() -> None:
    """Leave as soon as the process that started this one is gone, killed maybe.

    A fork server, the parent that the kernel knows, lives for as long as its children do and so would not tell.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)
