"""Silence: what libraries warn and log about a file quotes its values, so it must not reach any log."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

LIBRARIES = ("pydicom", "openjpeg", "pylibjpeg", "rle", "PIL", "nibabel.global", "dicomweb_client", "urllib3")
_silenced = False


@contextmanager
def quiet() -> Iterator[list[warnings.WarningMessage]]:
    """Keep warnings and log records of the DICOM libraries back while the block runs; yield the warnings.

    Changing the level of a logger is slow, so hold this around many files; inside another one it costs little.
    """
    global _silenced
    was_silenced, _silenced = _silenced, True
    loggers = [] if was_silenced else [logging.getLogger(name) for name in LIBRARIES]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield caught
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        _silenced = was_silenced
