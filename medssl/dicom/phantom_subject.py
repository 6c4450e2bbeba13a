"""Who the chest phantom is and how a study of it was taken: invented patients, opacities, vendors, drawn from keys."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

import numpy as np

from medssl.core.keys import generator


class Finding(StrEnum):
    """What a study shows."""

    NORMAL = "normal"
    OPACITY = "opacity"


@dataclass(frozen=True)
class Vendor:
    """An invented maker's detector, processing and habits."""

    manufacturer: str
    model: str
    modality: str  # DX | CR
    bits: int
    inverted: bool  # stored as MONOCHROME1
    slope: float  # rescale slope; intercept is zero
    field_mm: float  # width of the detector
    contrast: float  # slope of the display curve
    toe: float  # exponent that lifts (< 1) or deepens (> 1) the dark end
    sharpen: float  # gain of the unsharp mask
    quanta: float  # detected quanta a pixel at full transmission
    grain_px: float  # correlation length of the noise
    shutter: float  # display value outside the collimator, in [0, 1]
    marker_mm: float  # height of the side marker
    range_used: tuple[float, float]  # part of the stored range that holds the image


VENDORS = (
    Vendor("Aurelia Imaging", "Lumen 4", "DX", 12, False, 1, 390, 3.7, 1.00, 0.5, 9e4, 0.0, 0.00, 12, (0.02, 0.95)),
    Vendor("Borealis Medical", "DR-Nord", "DX", 14, False, 1, 410, 4.3, 1.10, 0.9, 1.4e5, 0.0, 0.00, 10, (0.05, 0.70)),
    Vendor("Cobalt Roentgen", "CR 35", "CR", 10, True, 1, 375, 3.2, 0.90, 0.3, 4e4, 0.7, 0.06, 14, (0.00, 1.00)),
    Vendor("Delphine Sante", "Ombre II", "CR", 12, False, 0.5, 400, 3.4, 1.05, 0.7, 5e4, 0.5, 0.00, 11, (0.08, 0.90)),
    Vendor("Estrel Systems", "Panel 17", "DX", 12, True, 1, 430, 4.0, 0.95, 0.2, 7e4, 0.0, 0.02, 13, (0.00, 0.85)),
)


@dataclass(frozen=True)
class PhantomPatient:
    """The lasting anatomy of one invented patient, in mm; the patient's left at positive x, feet at positive y."""

    key: int  # of the vessel tree and the lung's texture
    sex: str
    age: float  # years
    chest_mm: float  # half-width inside the rib cage
    lung_mm: float  # apex to costophrenic angle
    depth_mm: float  # largest front-to-back depth inside the rib cage
    wall_mm: float  # chest wall, by habitus
    breast_mm: float  # depth of breast tissue
    breast_y: float
    heart_mm: tuple[float, float]  # semi-axes
    heart_at: tuple[float, float]
    heart_tilt: float  # radians
    mediastinum_mm: float  # half-width
    knob_mm: float  # radius of the aortic knob
    dome_mm: tuple[float, float]  # height of the right and left diaphragm dome above the costophrenic angle
    rib_slope: float
    rib_mm: float  # half-width of a rib
    bone: float  # mineral density around 1
    scoliosis_mm: float
    clavicle_rise: float
    shoulder_mm: float
    vessels: float  # calibre around 1

    @property
    def apex_y(self) -> float:
        """Height of the lungs' apices."""
        return -0.47 * self.lung_mm

    @property
    def vertebra_mm(self) -> float:
        """Distance between vertebrae, hence between ribs."""
        return self.lung_mm / 10.2

    @classmethod
    def draw(cls, seed: int, number: int) -> Self:
        """Return patient ``number`` of the world ``seed``."""
        rng = generator("phantom patient", seed, number)
        female = bool(rng.random() < 0.5)
        size, habitus = float(rng.normal(0.95 if female else 1.03, 0.05)), float(rng.beta(2, 3))
        age = float(rng.uniform(20, 88))
        chest = size * float(rng.normal(132, 6))
        dome = float(rng.normal(42, 7))
        return cls(
            key=int(rng.integers(2**62)),
            sex="F" if female else "M",
            age=age,
            chest_mm=chest,
            lung_mm=size * float(rng.normal(258, 12)),
            depth_mm=size * float(rng.normal(150, 12)),
            wall_mm=18 + 40 * habitus,
            breast_mm=float(rng.uniform(5, 34)) * (0.6 + 0.8 * habitus) if female else float(rng.uniform(0, 8)),
            breast_y=float(rng.uniform(50, 85)),
            heart_mm=(chest * float(rng.normal(0.50, 0.045)), chest * float(rng.normal(0.36, 0.03))),
            heart_at=(float(rng.normal(23, 4)), float(rng.normal(64, 6))),
            heart_tilt=float(rng.normal(0.62, 0.10)),
            mediastinum_mm=float(rng.normal(25, 3)),
            knob_mm=float(np.clip(rng.normal(12 + age / 10, 2.5), 9, 26)),
            dome_mm=(dome, dome - float(rng.normal(10, 5))),
            rib_slope=float(rng.normal(1, 0.16)),
            rib_mm=float(rng.normal(5.4, 0.6)),
            bone=float(np.clip(rng.normal(1.12 - age / 400, 0.12), 0.6, 1.4)),
            scoliosis_mm=float(rng.normal(0, 4)),
            clavicle_rise=float(rng.normal(0.16, 0.08)),
            shoulder_mm=float(rng.normal(215, 10)) * size,
            vessels=float(np.clip(rng.normal(1, 0.16), 0.6, 1.5)),
        )


@dataclass(frozen=True)
class Opacity:
    """One consolidation: where water replaces air, as a fraction of the ray's path through lung."""

    x: float  # mm
    y: float
    radii_mm: tuple[float, float]
    angle: float  # radians
    fill: float  # of the path, in [0, 1]
    softness: float  # width of the edge relative to the radius
    fissure: float | None  # y in mm at which a lobe ends, None where no fissure bounds it
    above: bool  # the consolidated lobe lies above the fissure
    key: int  # of its ragged outline


@dataclass(frozen=True)
class PhantomStudy:
    """One exposure: pose, breath, vendor, settings, and what there is to find."""

    key: int  # of the noise
    vendor: Vendor
    view: str  # PA or AP; the heart lies further from the detector, hence larger, in AP
    opacities: tuple[Opacity, ...]
    inspiration_mm: float  # downward shift of the diaphragm
    rotation: float  # radians, in the plane of the image
    shift_mm: tuple[float, float]
    magnification: float
    oblique: float  # rotation about the long axis around 0, in [-1, 1]
    dose: float  # around 1
    brightness: float  # mean display value that the automatic exposure aims at
    collimation: tuple[float, float, float, float]  # blades at left, right, top, bottom as fractions of the field
    marker: str  # "L" or "R", on that side of the patient
    marker_at: tuple[float, float]  # fractions of the field, from the side and from the top
    arms: float  # how far the shoulder blades overlie the lungs, in [0, 1]
    stomach_gas_mm: float

    @property
    def finding(self) -> Finding:
        """Whether there is any opacity."""
        return Finding.OPACITY if self.opacities else Finding.NORMAL

    @classmethod
    def draw(cls, seed: int, patient: int, number: int, finding: Finding) -> Self:
        """Return study ``number`` of ``patient``; every draw but the opacities' is independent of ``finding``."""
        rng = generator("phantom study", seed, patient, number)
        trim = rng.uniform(0, 0.045, 4) * (rng.random(4) < 0.6)
        return cls(
            key=int(rng.integers(2**62)),
            vendor=VENDORS[int(rng.integers(len(VENDORS)))],
            view="PA" if rng.random() < 0.8 else "AP",
            opacities=_opacities(seed, patient, number) if finding is Finding.OPACITY else (),
            inspiration_mm=float(rng.normal(0, 6)),
            rotation=float(rng.normal(0, 0.022)),
            shift_mm=(float(rng.normal(0, 5)), float(rng.normal(0, 6))),
            magnification=float(rng.normal(1.0, 0.02)),
            oblique=float(np.clip(rng.normal(0, 0.35), -1, 1)),
            dose=float(rng.lognormal(0, 0.3)),
            brightness=float(rng.normal(0.5, 0.035)),
            collimation=(float(trim[0]), float(trim[1]), float(trim[2]), float(trim[3])),
            marker="L" if rng.random() < 0.5 else "R",
            marker_at=(float(rng.uniform(0.05, 0.12)), float(rng.uniform(0.05, 0.3))),
            arms=float(rng.random()),
            stomach_gas_mm=float(rng.uniform(12, 32)) * (rng.random() < 0.75),
        )


def _opacities(seed: int, patient: int, number: int) -> tuple[Opacity, ...]:
    """Draw one or two consolidated regions."""
    rng = generator("phantom opacity", seed, patient, number)
    regions = 1 + int(rng.random() < 0.4)
    return tuple(opacity for _ in range(regions) for opacity in _region(rng))


def _region(rng: np.random.Generator) -> tuple[Opacity, ...]:
    """Draw one lobe, one focus, or a patch of several foci, more often in the lower zones."""
    kind = rng.choice(["lobar", "focal", "patchy"], p=[0.35, 0.35, 0.3])
    low = bool(rng.random() < 0.75)
    side = 1 if rng.random() < 0.5 else -1
    x, y = side * rng.uniform(45, 95), rng.uniform(15, 80) if low else rng.uniform(-85, -10)
    fill = float(np.clip(rng.lognormal(np.log(0.54), 0.4), 0.14, 0.8))
    count = int(rng.integers(3, 7)) if kind == "patchy" else 1
    size = {"lobar": (48.0, 75.0), "focal": (24.0, 50.0), "patchy": (12.0, 26.0)}[str(kind)]
    spread = 26.0 if kind == "patchy" else 0.0
    fissure = float(rng.uniform(-12, 14)) if kind == "lobar" else None
    return tuple(
        Opacity(
            x=float(x + rng.normal(0, 1) * spread),
            y=float(y + rng.normal(0, 1) * spread),
            radii_mm=(float(rng.uniform(*size)), float(rng.uniform(*size))),
            angle=float(rng.uniform(0, np.pi)),
            fill=fill * float(rng.uniform(0.8, 1.2)),
            softness=float(rng.uniform(0.25, 0.6)),
            fissure=fissure,
            above=not low,
            key=int(rng.integers(2**62)),
        )
        for _ in range(count)
    )
