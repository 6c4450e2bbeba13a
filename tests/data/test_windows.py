"""VOI windows map stored values as PS3.3 C.11.2 writes it, by the function that a flag names."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medssl.data.prepare import PrepareConfig, normalise

ROW: dict[str, Any] = {
    "axes": "YX", "units": "stored", "slope": 1.0, "intercept": 0.0, "padding": None, "window_center": None,
    "window_width": None, "modality": "DX", "dtype": "uint16", "flags": [],
}  # fmt: skip
PERCENTILES, VOI = PrepareConfig(), PrepareConfig(window="voi")


@pytest.mark.parametrize("flags", [[], ["window_linear_exact"], ["window_sigmoid"]])
@given(centre=st.floats(-500, 500), width=st.floats(1.5, 900))
def test_windows_map_by_the_function_that_their_flag_names(flags: list[str], centre: float, width: float) -> None:
    stored = np.arange(-600, 600, 7, np.int16)[None]
    row = ROW | {"flags": flags, "slope": 2.0, "intercept": -10.0, "window_center": centre, "window_width": width}
    made = normalise(stored, row, VOI)[0, 0]
    for found, value in zip(made, stored[0] * 2.0 - 10, strict=True):
        assert found == pytest.approx(by_the_standard(value, centre, width, flags), abs=1e-3)


def by_the_standard(x: float, c: float, w: float, flags: list[str]) -> float:
    """Return PS3.3 C.11.2.1.2.1, C.11.2.1.3.1 and C.11.2.1.3.2 as they are written, from 0 to 1."""
    if flags == ["window_sigmoid"]:
        return 1 / (1 + math.exp(min(-4 * (x - c) / w, 700)))
    if flags == []:
        c, w = c - 0.5, w - 1
    if x <= c - w / 2:
        return 0.0
    return 1.0 if x > c + w / 2 else (x - c) / w + 0.5


def test_narrow_windows_are_taken_where_their_function_allows_them() -> None:
    row = ROW | {"window_center": 0.5, "window_width": 0.5}
    stored = np.array([[0, 1, 2, 3]], np.uint16)
    exact = normalise(stored, row | {"flags": ["window_linear_exact"]}, VOI)
    assert exact[0, 0].tolist() == [0, 1, 1, 1]
    assert np.array_equal(
        normalise(stored, row, VOI), normalise(stored, row, PERCENTILES)
    )  # narrower than LINEAR may be


def test_a_window_of_values_that_were_not_looked_up_is_not_applied() -> None:
    row = ROW | {"window_center": 20.0, "window_width": 10.0, "flags": ["modality_lut"]}
    stored = np.arange(4000, dtype=np.uint16).reshape(50, 80)
    assert np.array_equal(normalise(stored, row, VOI), normalise(stored, row, PERCENTILES))
