"""A process that is killed, in place of one: nothing it does from then on reaches the disk."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import pytest


class Killed(BaseException):
    """Ends a call as kill -9 would end its process."""


def killed_before(step: int, call: Callable[[], object], monkeypatch: pytest.MonkeyPatch, names: Sequence[str]) -> bool:
    """Run ``call``, but die before the ``step``-th change of the disk by ``os.<names>``; return whether it died."""
    left = step

    def dying(function: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            if left <= 0:
                raise Killed
            left -= 1
            return function(*args, **kwargs)

        return changed

    with monkeypatch.context() as patch:
        for name in names:
            patch.setattr(os, name, dying(getattr(os, name)))
        try:
            call()
        except Killed:
            return True
    return False
