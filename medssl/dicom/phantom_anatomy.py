"""What an X-ray passes in the chest phantom: millimetres of soft tissue, lung and bone a pixel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from medssl.core.keys import generator
from medssl.dicom.phantom_grid import Grid, Plane, dome, drum, noise, step
from medssl.dicom.phantom_subject import Opacity, PhantomPatient, PhantomStudy

VESSEL_GAIN = 2.6  # arteries and veins run in pairs, and more than one pair deep


@dataclass(frozen=True)
class Tissue:
    """Path lengths in mm a pixel."""

    soft: Plane  # all that is as dense as water, vessels and consolidations included
    lung: Plane  # aerated lung
    bone: Plane


def tissue(patient: PhantomPatient, study: PhantomStudy, shape: tuple[int, int]) -> Tissue:
    """Return what the rays of ``study`` pass in ``patient``, each ``Y X``."""
    grid = Grid.of(study, shape)
    body = _body(patient, study, grid)
    lung = np.minimum(_lung(patient, study, grid), 0.92 * body)
    fill = _fill(study.opacities, grid)
    present = lung / patient.depth_mm
    vessels = present * (1 - 1.4 * fill) * _vessels(patient, grid, shape)  # bronchi turn dark where the lung is full
    texture = 1 + 0.04 * noise(patient.key, shape, 14) + 0.04 * noise(patient.key + 1, shape, 60)
    aerated = lung * (1 - fill) * np.clip(texture, 0.5, 1.5)
    return Tissue(body - aerated + VESSEL_GAIN * vessels, aerated, _bones(patient, study, grid))


def _cage(patient: PhantomPatient, y: NDArray[np.float32] | np.float32) -> Plane:
    """Return the half-width inside the ribs at height ``y``."""
    u = np.clip((y - patient.apex_y) / patient.lung_mm, 0, 1)
    return np.asarray(patient.chest_mm * (1 - (1 - u) ** np.float32(3.0)) ** np.float32(0.44))


def _body(patient: PhantomPatient, study: PhantomStudy, grid: Grid) -> Plane:
    """Depth of the whole body: torso, shoulders and neck, breasts, arms; stomach gas taken out."""
    x, y = grid.x, grid.y
    side = np.abs(x)
    top, half = patient.apex_y, patient.chest_mm + patient.wall_mm + 6
    depth = (patient.depth_mm + 1.5 * patient.wall_mm) * (1 + 0.05 * study.oblique * x / half)
    flank = half + 0.5 * np.maximum(-30 - y, 0)  # the armpit widens into the shoulder
    torso = depth * drum((x / flank) ** 2) * (0.55 + 0.45 * step(y - top - 60, 60))
    skin = top - 20 + 0.28 * np.maximum(side - 50, 0) + 0.0022 * np.maximum(side - 120, 0) ** 2
    skin = skin - 1.6 * np.maximum(62 - side, 0)  # shoulders rise into the neck
    torso = torso * np.sqrt(np.clip((y - skin) / 50, 0, 1))
    shoulder = (70 + patient.wall_mm) * np.sqrt(np.clip((y - skin) / 32, 0, 1))
    shoulder = shoulder * step(patient.shoulder_mm - side, 4) * step(-62 - y + 0.7 * (side - 150), 22)
    neck = 112 * dome((x / 62) ** 2) * step(top + 30 - y, 14)
    arm = 80 * dome(((side - half - 46 - 0.10 * (y + 60)) / 38) ** 2) * step(y + 70, 20)
    reach = np.where(y > patient.breast_y, np.float32(42), np.float32(85))
    breasts = sum(
        dome(((x - s * 0.55 * patient.chest_mm) / 68) ** 2 + ((y - patient.breast_y) / reach) ** 2) for s in (-1, 1)
    )
    gas = dome(
        ((x - 62) / (1.5 * study.stomach_gas_mm + 1)) ** 2
        + ((y - _dome_top(patient, study, 1) - study.stomach_gas_mm - 9) / (study.stomach_gas_mm + 1)) ** 2
    )
    whole = np.maximum(np.maximum(torso, np.maximum(shoulder, arm)), neck) + patient.breast_mm * breasts * (torso > 0)
    airway = 0.9 * _trachea(patient, study, grid)
    return np.asarray(whole - 1.6 * study.stomach_gas_mm * gas - airway)


def _trachea(patient: PhantomPatient, study: PhantomStudy, grid: Grid) -> Plane:
    """Depth of air from the larynx to the carina and into both main bronchi."""
    x, y = grid.x - 5 * study.oblique, grid.y
    carina = -42.0
    arms = np.maximum(y - carina, 0)
    windpipe = 18 * dome(((x + 2) / 8.5) ** 2) * step(carina + 4 - y, 4)
    bronchi = 10 * dome(((np.abs(x + 2) - 0.8 * arms - 3) / 7) ** 2) * step(y - carina, 4) * step(carina + 32 - y, 6)
    return np.asarray(np.maximum(windpipe, bronchi))


def _dome_top(patient: PhantomPatient, study: PhantomStudy, side: int) -> float:
    """Height of the diaphragm dome of ``side`` (-1 right, 1 left)."""
    return patient.apex_y + patient.lung_mm - patient.dome_mm[side > 0] - 8 + study.inspiration_mm


def _lung(patient: PhantomPatient, study: PhantomStudy, grid: Grid) -> Plane:
    """Depth of lung: the rib cage less mediastinum, heart and what lies below the diaphragm."""
    y, top = grid.y, patient.apex_y
    x = grid.x
    mid = x - 6 * study.oblique
    cage = np.maximum(_cage(patient, y), 1)
    depth = patient.depth_mm * (0.5 + 0.5 * step(y - top - 40, 50)) * dome((x / cage) ** 2)
    apex = 22 * np.exp(-np.maximum(y - top, 0) / 22)
    column = step(patient.mediastinum_mm + apex + 0.05 * np.maximum(y, 0) - np.abs(mid), 3)
    knob = 0.7 * dome(
        ((mid - patient.mediastinum_mm) / patient.knob_mm) ** 2 + ((y + 48) / (1.2 * patient.knob_mm)) ** 2
    )
    trunk = 0.5 * dome(((mid - patient.mediastinum_mm - 2) / 16) ** 2 + ((y + 16) / 24) ** 2)
    c, s = math.cos(patient.heart_tilt), math.sin(patient.heart_tilt)
    hx, hy = mid - patient.heart_at[0], y - patient.heart_at[1] - 0.5 * study.inspiration_mm
    long, short = (axis * (1.1 if study.view == "AP" else 1) for axis in patient.heart_mm)
    heart = 0.85 * drum(((c * hx + s * hy) / long) ** 2 + ((c * hy - s * hx) / short) ** 2)
    atrium = 0.7 * dome(((mid + 14) / 36) ** 2 + ((y - patient.heart_at[1] + 4) / 46) ** 2)
    free = (1 - 0.82 * column) * (1 - knob) * (1 - trunk) * (1 - heart) * (1 - atrium)
    away = np.abs(x) / patient.chest_mm - 0.45
    bend = np.where(away > 0, 95 * away**2, 26 * away**2)
    left, right = np.float32(_dome_top(patient, study, 1)), np.float32(_dome_top(patient, study, -1))
    below = np.sqrt(np.clip((y - np.where(x > 0, left, right) - bend) / 40, 0, 1))
    return np.asarray(depth * free * (1 - below) * (y > top))


def _fill(opacities: tuple[Opacity, ...], grid: Grid) -> Plane:
    """Fraction of the lung's path that is consolidated."""
    aerated = np.ones_like(grid.x)
    for o in opacities:
        c, s = math.cos(o.angle), math.sin(o.angle)
        dx, dy = grid.x - o.x, grid.y - o.y
        radius = np.sqrt(((c * dx + s * dy) / o.radii_mm[0]) ** 2 + ((c * dy - s * dx) / o.radii_mm[1]) ** 2)
        ragged = 0.26 * noise(o.key, grid.x.shape, 9) + 0.14 * noise(o.key + 1, grid.x.shape, 24)
        patch = step(1 - radius + ragged, o.softness) * np.clip(1 + 0.25 * noise(o.key + 2, grid.x.shape, 30), 0.3, 1.5)
        if o.fissure is not None:
            edge = o.fissure + 0.12 * np.abs(grid.x) - grid.y
            patch = patch * step(edge if o.above else -edge, 2.5)
        aerated = aerated * (1 - np.clip(o.fill * patch, 0, 0.95))
    return np.asarray(1 - aerated)


def _bones(patient: PhantomPatient, study: PhantomStudy, grid: Grid) -> Plane:
    """Depth of bone: ribs, spine, clavicles, shoulder blades."""
    bone = _spine(patient, study, grid) + _clavicles(patient, study, grid) + _shoulder_blades(patient, study, grid)
    top = patient.apex_y
    for k in range(10):
        height = patient.rib_slope * (14 + 4.6 * k)
        spine_y = top - 6 + k * patient.vertebra_mm
        y0 = spine_y + height
        a = float(_cage(patient, np.float32(y0))) + 3
        rows = np.abs(grid.y[:, grid.y.shape[1] // 2] - y0) < height + 30
        bone[rows] += _rib(
            grid.x[rows] / a,
            (grid.y[rows] - y0) / height,
            a,
            height,
            patient.rib_mm * (0.85 + 0.02 * k),
            0.75 if k < 7 else 0.3,
        )
    return np.asarray(patient.bone * bone)


def _rib(u: Plane, v: Plane, a: float, height: float, half: float, front: float) -> Plane:
    """A hoop seen obliquely: an ellipse whose upper arc is the posterior, its lower the anterior rib."""
    u2, v2 = u * u, v * v
    radius = np.sqrt(u2 + v2) + np.float32(1e-6)
    distance = (radius - 1) * radius / np.sqrt(u2 / a**2 + v2 / height**2 + np.float32(1e-12))
    q2 = (distance / half) ** 2
    profile = np.maximum(1 - q2 * q2, 0) * (0.55 + 0.75 * q2)  # a cortex around marrow
    fore = (1 - (1 - front) * step(v - 0.3, 0.2)) * step(
        u2 - 0.22, 0.06
    )  # cartilage towards the breast bone casts no shadow
    back = step(np.abs(u) - 14 / a, 2 / a)  # the rib ends at its vertebra
    return np.asarray(10 * profile * np.where(v > 0, fore, back) * (1 + 0.6 * u2 * u2))


def _spine(patient: PhantomPatient, study: PhantomStudy, grid: Grid) -> Plane:
    """Vertebral bodies with discs between, pedicles and spinous processes."""
    near = np.abs(grid.x).min(0) < 50  # columns; the rest of the image has no spine
    y = grid.y[:, near]
    x = grid.x[:, near] - patient.scoliosis_mm * np.sin(y / 75) + 4 * study.oblique
    pitch = patient.vertebra_mm
    level = (y - patient.apex_y) / pitch
    disc = np.cos(2 * np.pi * level)
    vertebra = step(15.5 + 0.02 * y - 1.3 * disc - np.abs(x), 1.8) * (8.5 + 3.5 * np.tanh(2.5 * (0.75 - disc)))
    rung = pitch * (level - np.floor(level) - 0.42)
    pedicles = dome(((np.abs(x) - 9.5) / 3.2) ** 2 + (rung / 4.5) ** 2)
    process = dome((x / 2.6) ** 2 + ((rung - 5) / 7) ** 2)
    bone = np.zeros_like(grid.x)
    bone[:, near] = vertebra + 5 * pedicles + 5 * process
    return bone


def _clavicles(patient: PhantomPatient, study: PhantomStudy, grid: Grid) -> Plane:
    """Two slender S-curves from the breast bone to the shoulders."""
    side = np.abs(grid.x - 9 * study.oblique)
    t = np.clip((side - 14) / 150, 0, 1)
    y = patient.apex_y + 46 - 150 * patient.clavicle_rise * t - 13 * np.sin(2 * np.pi * t) * (0.4 + 0.6 * t)
    half = 5.2 + 5 * (1 - t) ** 4 + 2 * t**2
    q2 = ((grid.y - y) / half) ** 2
    return np.asarray(7 * np.maximum(1 - q2 * q2, 0) * (0.5 + 0.8 * q2) * step(side - 14, 2) * step(164 - side, 3))


def _shoulder_blades(patient: PhantomPatient, study: PhantomStudy, grid: Grid) -> Plane:
    """The medial border of each scapula over the upper lateral lung, and the head of the humerus."""
    side, y = np.abs(grid.x), grid.y
    top = patient.apex_y
    inner = patient.chest_mm * (0.92 - 0.22 * study.arms) + 0.12 * (y - top)
    depth = side - inner
    blade = step(depth, 1.6) * (3 + 6 * np.exp(-np.maximum(depth, 0) / 4)) * step(y - top - 12 - 0.25 * depth, 3)
    blade = blade * step(top + 150 - 0.9 * np.maximum(depth, 0) - y, 4) * step(70 - depth, 6)
    head = dome(((side - 178) / 23) ** 2 + ((y - top - 42) / 24) ** 2) * 14
    shaft = step(13 - np.abs(side - 188 - 0.08 * (y - top - 42)), 2) * step(y - top - 48, 5) * 11
    return np.asarray(blade + np.maximum(head, shaft))


def _vessels(patient: PhantomPatient, grid: Grid, shape: tuple[int, int]) -> Plane:
    """Depth of blood vessels: trees that fork from both hila, rastered by width and blurred to it."""
    points, mass, calibre = _vessel_tree(patient.key, patient.lung_mm, patient.chest_mm)
    pixel = np.rint(grid.pose[:, :2] @ points + grid.pose[:, 2:]).astype(np.int64)
    inside = (pixel >= 0).all(0) & (pixel[0] < shape[1]) & (pixel[1] < shape[0])
    flat = pixel[1] * shape[1] + pixel[0]
    out = np.zeros(shape, np.float32)
    for low, high in ((0.0, 2.2), (2.2, 4.2), (4.2, 99.0)):
        chosen = inside & (calibre >= low) & (calibre < high)
        plane = np.bincount(flat[chosen], mass[chosen], shape[0] * shape[1]).reshape(shape).astype(np.float32)
        sigma = 0.3 + 0.27 * min(0.5 * (low + high), 6.5) / grid.spacing_mm
        out += gaussian_filter(plane, sigma, truncate=3)
    return np.asarray(out * np.float32(patient.vessels**2 / grid.spacing_mm**2))


@lru_cache(maxsize=8)
def _vessel_tree(
    key: int, lung_mm: float, chest_mm: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return points along forking vessels (2 x N, mm), the volume each stands for (mm3) and its calibre (mm)."""
    rng = generator("phantom vessels", key)
    num = 9
    side = np.repeat([-1.0, 1.0], num)
    heading = np.tile(np.linspace(-1.35, 1.5, num), 2) + rng.normal(0, 0.12, 2 * num)
    at = np.stack([side * (26 + 4 * rng.random(2 * num)), -8 + rng.normal(0, 9, 2 * num) - 4 * (side > 0)])
    calibre = rng.uniform(5.5, 10.0, 2 * num)
    points, mass, widths = [], [], []
    steps = 24
    t = np.linspace(0, 1, steps)[None, :]
    for level in range(5):
        length = (lung_mm / 258) * (34 - 3.2 * level) * rng.uniform(0.75, 1.3, len(side))
        angle = heading[:, None] + rng.normal(0, 0.35, len(side))[:, None] * t
        dx = np.cumsum(np.cos(angle), 1) * (length / steps)[:, None] * side[:, None] * chest_mm / 132
        dy = np.cumsum(np.sin(angle), 1) * (length / steps)[:, None]
        width = calibre[:, None] * (1 - 0.25 * t)
        points.append(np.stack([(at[0][:, None] + dx).ravel(), (at[1][:, None] + dy).ravel()]))
        mass.append((np.pi / 4 * width**2 * (length / steps)[:, None]).ravel())
        widths.append(width.ravel())
        at = np.stack([at[0] + dx[:, -1], at[1] + dy[:, -1]]).repeat(2, 1)
        fork = rng.uniform(0.2, 0.55, len(side))
        heading = np.stack([angle[:, -1] - fork, angle[:, -1] + fork], 1).ravel()
        calibre, side = 0.75 * 0.92 * calibre.repeat(2) * rng.uniform(0.85, 1.1, 2 * len(side)), side.repeat(2)
    return np.concatenate(points, 1), np.concatenate(mass), np.concatenate(widths)
