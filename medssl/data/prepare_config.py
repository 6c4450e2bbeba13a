"""What every image becomes: the ``prepare`` section of a study."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from annotated_types import Gt, Len
from pydantic import model_validator

from medssl.core.config import Config, Span
from medssl.core.types import Geometry


class PrepareConfig(Config):
    """What every image becomes.

    CT is windowed in HU; everything else by percentiles of its tissue, or by the VOI window that came with it.
    ``shape`` is what an encoder sees. ``fit``: ``pad`` scales the whole image into it, ``stretch`` every side, ``crop``
    keeps the extent (padded where it is smaller), to be read by boxes of ``shape``. ``spacing_mm`` (in the order of
    ``shape``) resamples first; volumes are brought to RAS. ``foreground`` cuts away the air around the patient.
    ``codec``: ``none`` is read fastest and takes most room.
    """

    shape: Annotated[tuple[Annotated[int, Gt(0)], ...], Len(2, 3)] = (224, 224)
    channels: Literal[1, 3] = 1
    window_hu: tuple[float, float] = (-1000.0, 1000.0)
    window: Literal["percentiles", "voi"] = "percentiles"
    percentiles: Span = (0.005, 0.995)
    fit: Literal["pad", "stretch", "crop"] = "pad"
    spacing_mm: Annotated[tuple[Annotated[float, Gt(0)], ...], Len(2, 3)] | None = None
    foreground: bool = False
    codec: Literal["lz4", "none"] = "lz4"

    @model_validator(mode="after")
    def _one_spacing_an_axis(self) -> Self:
        if self.spacing_mm is not None and len(self.spacing_mm) != len(self.shape):
            raise ValueError(f"spacing_mm with one number for each of the {len(self.shape)} axes of shape")
        return self

    @property
    def geometry(self) -> Geometry:
        """What an encoder sees; stretching leaves no spacing known, nor do boxes of volumes sampled as they came."""
        stretched = self.fit == "stretch"
        own = self.fit == "crop" and self.spacing_mm is None and len(self.shape) == 3  # pixels of an image are square
        spacing = None if stretched else self.spacing_mm
        return Geometry(self.shape, self.channels, spacing, proportional=not (stretched or own))
