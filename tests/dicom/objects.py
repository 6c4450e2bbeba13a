"""Invented multi-frame objects: functional groups, cines, nuclear medicine, ultrasound regions, mosaics."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset, FileDataset
from synthetic_dicom import dataset, with_pixels


def item(**elements: Any) -> Dataset:
    """Return a data set of these elements."""
    ds = Dataset()
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    return ds


def volume(num: int, shape: tuple[int, int] = (40, 36)) -> NDArray[np.uint16]:
    """Return ``num`` 12-bit planes that differ."""
    return np.random.default_rng(num).integers(0, 4096, (num, *shape)).astype(np.uint16)


def framed(ds: FileDataset, planes: NDArray[Any]) -> FileDataset:
    """Give an object many frames (``T Y X`` or ``T Y X 3``)."""
    with_pixels(ds, planes[0], BitsStored=8 * planes.itemsize if planes.itemsize == 1 else 12)
    ds.HighBit, ds.NumberOfFrames = ds.BitsStored - 1, len(planes)
    data = planes.tobytes()
    ds.add_new("PixelData", "OB" if planes.itemsize == 1 else "OW", data + b"\0" * (len(data) % 2))
    return ds


def many_frames(num: int, sop_class: str = uid.EnhancedMRImageStorage, *, shared: bool = True) -> FileDataset:
    """Return an enhanced object: axial planes 2 mm apart, each with its own slope."""
    ds = framed(dataset(sop_class, f"enhanced {num}", Modality="MR"), volume(num))
    ds.ImageType = ["ORIGINAL", "PRIMARY", "T1", "NONE"]
    common = {
        "PlaneOrientationSequence": [item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
        "PixelMeasuresSequence": [item(PixelSpacing=[0.5, 0.75], SliceThickness=2, SpacingBetweenSlices=2)],
        "MREchoSequence": [item(EffectiveEchoTime=4.5)],
    }
    if shared:
        ds.SharedFunctionalGroupsSequence = [item(**common)]
    ds.PerFrameFunctionalGroupsSequence = [
        item(
            FrameContentSequence=[item(StackID="1", InStackPositionNumber=k + 1, DimensionIndexValues=[1, k + 1])],
            PlanePositionSequence=[item(ImagePositionPatient=[-10.0, -20.0, 2.0 * k])],
            PixelValueTransformationSequence=[item(RescaleSlope=1 + k, RescaleIntercept=-k, RescaleType="US")],
            FrameVOILUTSequence=[item(WindowCenter=100 + k, WindowWidth=200)],
            **({} if shared else common),
        )
        for k in range(num)
    ]
    ds.DimensionIndexSequence = [
        item(DimensionIndexPointer=0x00209056),
        item(DimensionIndexPointer=0x00209057),
    ]
    return ds


def cine(num: int, sop_class: str, *, colour: bool = False, **elements: Any) -> FileDataset:
    """Return a multi-frame object of which nothing says where its frames lie."""
    planes = volume(num)
    if colour:
        planes = np.stack([planes % 256, planes % 251, planes % 7], -1).astype(np.uint8)
    ds = framed(dataset(sop_class, f"cine {num}", **elements), planes)
    ds.NumberOfFrames = num
    return ds


def nuclear(num_slices: int, num_windows: int = 1) -> FileDataset:
    """Return a reconstructed nuclear medicine volume, 4 mm apart and going against the normal."""
    ds = cine(num_slices * num_windows, uid.NuclearMedicineImageStorage, Modality="NM")
    ds.ImageType = ["ORIGINAL", "PRIMARY", "RECON TOMO", "EMISSION"]
    ds.PixelSpacing, ds.SpacingBetweenSlices = [3, 3], -4
    ds.SliceVector = [*range(1, num_slices + 1)] * num_windows
    ds.EnergyWindowVector = [w + 1 for w in range(num_windows) for _ in range(num_slices)]
    ds.DetectorInformationSequence = [
        item(ImagePositionPatient=[-50.0, -60.0, 100.0], ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    ]
    return ds


def ultrasound(num: int, deltas_cm: tuple[float, float] = (0.02, 0.03), num_regions: int = 1) -> FileDataset:
    """Return an ultrasound object with calibrated regions."""
    ds = cine(num, uid.UltrasoundMultiFrameImageStorage, colour=True, Modality="US")
    ds.SequenceOfUltrasoundRegions = [
        item(
            RegionSpatialFormat=1,
            RegionLocationMinX0=2,
            RegionLocationMinY0=3,
            RegionLocationMaxX1=30 + k,
            RegionLocationMaxY1=33,
            PhysicalUnitsXDirection=3,
            PhysicalUnitsYDirection=3,
            PhysicalDeltaX=deltas_cm[1] * (1 + k),
            PhysicalDeltaY=-deltas_cm[0],
        )
        for k in range(num_regions)
    ]
    return ds


def mosaic(num: int, tile: tuple[int, int] = (6, 4), normal: float = 1.0) -> tuple[FileDataset, NDArray[np.uint16]]:
    """Return a Siemens mosaic without CSA header, and its slices."""
    planes, side = volume(num, tile), int(np.ceil(np.sqrt(num)))
    picture = np.zeros((side * tile[0], side * tile[1]), np.uint16)
    for k, plane in enumerate(planes):
        top, left = k // side * tile[0], k % side * tile[1]
        picture[top : top + tile[0], left : left + tile[1]] = plane
    ds = with_pixels(dataset(uid.MRImageStorage, f"mosaic {num}", Modality="MR"), picture)
    ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [-100.0, -90.0, 5.0], [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing, ds.SliceThickness, ds.SpacingBetweenSlices = [2.0, 3.0], 3, 3.6
    del ds[0x00190010], ds[0x00191001]
    block = ds.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    block.add_new(0x0A, "US", num)
    block.add_new(0x27, "FD", [0.0, 0.0, normal])
    return ds, planes
