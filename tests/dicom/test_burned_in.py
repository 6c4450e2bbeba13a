"""Text in pixels: found where it is, quarantined, masked or accepted as the operator says, never changed unasked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydicom import uid
from pydicom.dataset import Dataset
from synthetic_dicom import DX, MR, dataset, save, with_pixels

from medssl.core.places import LocalFile
from medssl.dicom.burned_in import cleaned, masked
from medssl.dicom.decode import decode
from medssl.dicom.header import Header, Region
from medssl.dicom.read import read_header
from medssl.dicom.reasons import DicomProblem, Reason
from medssl.dicom.text import find_text

TEXT = "MRN7719204 Ottoline"
US = uid.UltrasoundImageStorage


def smooth(shape: tuple[int, int] = (400, 500), low: int = 40, high: int = 160) -> NDArray[np.uint8]:
    """Return an image of soft blobs and a few ribs: nothing of it is text."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = np.sin(y / 31) * np.cos(x / 47) + 0.4 * (np.sin((y + x / 3) / 9) > 0.8)
    return (low + (high - low) * (image - image.min()) / np.ptp(image)).astype(np.uint8)


SOFT = smooth(high=120)[200:].max()


def written(
    image: NDArray[np.uint8], size: int = 18, at: tuple[int, int] = (60, 90), level: int = 255
) -> tuple[NDArray[np.uint8], tuple[slice, slice]]:
    """Return the image with text on it, and where that is."""
    picture = Image.fromarray(image)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size)
    draw.text(at[::-1], TEXT, level, font)
    left, top, right, bottom = (int(v) for v in draw.textbbox(at[::-1], TEXT, font))
    return np.asarray(picture), (slice(top, bottom), slice(left, right))


def covered(image: NDArray[np.uint8], place: tuple[slice, slice]) -> float:
    """Return the share of ``place`` that lies in what was found."""
    found = np.zeros(image.shape[:2], bool)
    for box in find_text(image):
        found[box] = True
    return float(found[place].mean())


@pytest.mark.parametrize("size", [10, 12, 16, 24, 40])
@pytest.mark.parametrize("level", [255, 0])
def test_text_of_many_sizes_is_found_light_and_dark(size: int, level: int) -> None:
    image, place = written(smooth() if level else 255 - smooth(), size, level=level)
    assert covered(image, place) > 0.8


def test_text_is_found_in_twelve_bits_in_colour_and_in_a_large_image() -> None:
    image, place = written(smooth())
    assert covered(image.astype(np.uint16) * 16, place) > 0.8
    assert covered(np.stack([image] * 3, axis=-1), place) > 0.8
    large, place = written(smooth((2600, 3000)), 60, (300, 700))
    assert covered(large, place) > 0.8


def test_an_image_without_text_has_none() -> None:
    assert find_text(smooth()) == []
    assert find_text(np.zeros((300, 300), np.uint8)) == []
    assert find_text(np.full((64, 64, 3), 255, np.uint8)) == []


def test_a_marker_of_a_side_is_no_text() -> None:
    picture = Image.fromarray(smooth())
    ImageDraw.Draw(picture).text((30, 30), "R", 255, ImageFont.load_default(40))
    assert find_text(np.asarray(picture)) == []


def header_of(tmp_path: Path, image: NDArray[np.uint8], sop_class: str, **elements: object) -> tuple[Path, Header]:
    path = save(with_pixels(dataset(sop_class, "x", Modality="US"), image, **elements), tmp_path / "x")
    header = read_header(LocalFile(path)).header
    assert header is not None
    return path, header


def after(tmp_path: Path, policy: str, sop_class: str = US, **elements: object) -> tuple[float, float, bool]:
    """Return the largest value where the text was, where it was not, and whether the frame says it was masked."""
    image, place = written(smooth(high=120))
    path, header = header_of(tmp_path, image, sop_class, **elements)
    frame = cleaned(decode(LocalFile(path), header), header, policy)
    return float(frame.array[place].max()), float(frame.array[200:].max()), frame.is_masked


def test_a_risky_kind_is_quarantined_masked_or_accepted(tmp_path: Path) -> None:
    with pytest.raises(DicomProblem) as caught:
        after(tmp_path, "quarantine", BurnedInAnnotation="NO")
    assert caught.value.reason is Reason.BURNED_IN_RISK
    assert after(tmp_path, "mask") == (0, SOFT, True)
    assert after(tmp_path, "accept") == (255, SOFT, False)


def test_a_header_that_says_so_is_believed_whatever_the_kind(tmp_path: Path) -> None:
    with pytest.raises(DicomProblem) as caught:
        after(tmp_path, "quarantine", DX, BurnedInAnnotation="YES")
    assert caught.value.reason is Reason.BURNED_IN_ANNOTATION
    assert after(tmp_path, "mask", DX, BurnedInAnnotation="YES") == (0, SOFT, True)


def test_a_radiograph_is_changed_only_where_masking_was_asked_for(tmp_path: Path) -> None:
    assert after(tmp_path, "quarantine", DX) == (255, SOFT, False)
    assert after(tmp_path, "accept", DX) == (255, SOFT, False)
    assert after(tmp_path, "mask", DX) == (0, SOFT, True)


def test_slices_are_never_masked(tmp_path: Path) -> None:
    place = {"ImagePositionPatient": [0, 0, 0], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "PixelSpacing": [1, 1]}
    assert after(tmp_path, "mask", MR, **place) == (255, SOFT, False)


def test_what_is_outside_the_ultrasound_regions_is_blanked(tmp_path: Path) -> None:
    region = Dataset()
    region.RegionSpatialFormat, region.RegionDataType, region.RegionFlags = 1, 1, 0
    region.RegionLocationMinX0, region.RegionLocationMinY0 = 100, 150
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = 399, 349
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3
    region.PhysicalDeltaX = region.PhysicalDeltaY = 0.05
    image = smooth()
    path, header = header_of(tmp_path, image, US, SequenceOfUltrasoundRegions=[region])
    frame = cleaned(decode(LocalFile(path), header), header, "mask").array
    inside = np.zeros(image.shape, bool)
    inside[150:350, 100:400] = True
    assert np.array_equal(frame[inside], image[inside])
    assert frame[~inside].max() == 0


def test_regions_beyond_the_image_and_colour_and_signed_values_are_masked_too() -> None:
    colour = np.full((20, 30, 3), 9, np.uint8)
    shown = masked(colour, [Region(-5, -5, 9, 99, None)])
    assert (shown[:10] == 9).all()
    assert (shown[10:] == 0).all()
    signed = np.arange(-300, 300, dtype=np.int16).reshape(20, 30)
    assert (masked(signed, [Region(0, 0, 9, 29, None)])[10:] == -300).all()
    assert (masked(signed, [Region(0, 0, 9, 29, None)], padding=-2000)[10:] == -2000).all()
