"""The chest phantom: deterministic, anatomical, learnable, and without a shortcut to its finding."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom.errors import InvalidDicomError
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from medssl.core.errors import MedsslError
from medssl.core.keys import generator
from medssl.dicom.phantom import LUNG, SOFT, radiograph
from medssl.dicom.phantom_anatomy import tissue
from medssl.dicom.phantom_dicom import write_export
from medssl.dicom.phantom_subject import VENDORS, Finding, Opacity, PhantomPatient, PhantomStudy

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Sample:
    """One study of each of many patients."""

    images: Array  # N 128 128
    opacity: NDArray[np.bool_]
    vendor: NDArray[np.int64]


@pytest.fixture(scope="module")
def sample() -> Sample:
    studies = []
    for number in range(650):
        finding = list(Finding)[int(generator("test finding", number).integers(2))]
        studies.append(PhantomStudy.draw(7, number, 0, finding))
    images = [radiograph(PhantomPatient.draw(7, k), study, (128, 128)) for k, study in enumerate(studies)]
    return Sample(
        np.stack(images),
        np.array([s.finding is Finding.OPACITY for s in studies]),
        np.array([VENDORS.index(s.vendor) for s in studies]),
    )


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "export"
    write_export(folder, 16, seed=5, shape=(64, 80))
    return folder


def shrink(images: Array, size: int) -> Array:
    """Average blocks down to N (size * size)."""
    n, block = len(images), images.shape[1] // size
    return np.asarray(images.reshape(n, size, block, size, block).mean((2, 4)).reshape(n, -1))


def cross_validated_auroc(features: NDArray[np.floating], target: NDArray[np.bool_], c: float = 1.0) -> float:
    model = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=2000))
    return float(roc_auc_score(target, cross_val_predict(model, features, target, cv=5, method="decision_function")))


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# --- the image


@settings(max_examples=25)
@given(st.integers(0, 2**31), st.tuples(st.integers(24, 120), st.integers(24, 120)), st.sampled_from(Finding))
def test_any_study_of_any_shape_is_a_finite_image_in_the_unit_range(
    seed: int, shape: tuple[int, int], finding: Finding
) -> None:
    image = radiograph(PhantomPatient.draw(seed, 0), PhantomStudy.draw(seed, 0, 0, finding), shape)
    assert image.shape == shape and image.dtype == np.float32
    assert np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1 and image.std() > 0.1


def test_an_image_depends_on_its_keys_alone() -> None:
    patient, study = PhantomPatient.draw(1, 2), PhantomStudy.draw(1, 2, 0, Finding.OPACITY)
    np.random.seed(0)  # the global state is what must not matter
    before, first = np.random.get_state()[1].copy(), radiograph(patient, study, (64, 64))  # type: ignore[index]
    assert np.array_equal(np.random.get_state()[1], before)  # type: ignore[index]
    np.random.seed(1)
    assert np.array_equal(first, radiograph(PhantomPatient.draw(1, 2), study, (64, 64)))
    assert not np.array_equal(first, radiograph(patient, replace(study, key=study.key + 1), (64, 64)))


@settings(max_examples=4)
@given(st.integers(0, 2**31))
def test_two_studies_of_one_patient_resemble_each_other_more_than_two_patients(seed: int) -> None:
    pairs = [
        [
            radiograph(PhantomPatient.draw(seed, k), PhantomStudy.draw(seed, k, n, Finding.NORMAL), (64, 64))
            for n in (0, 1)
        ]
        for k in range(32)
    ]
    standard = [[((i - i.mean()) / i.std()).ravel() for i in pair] for pair in pairs]
    alike = np.array([[a[0] @ b[1] for b in standard] for a in standard]) / 64**2  # first against second study
    own = np.diag(alike)
    others = (alike.sum(1) - own) / (len(alike) - 1)
    assert own.mean() > others.mean() + 0.01
    assert (alike <= own[:, None]).mean() > 0.58  # the mean rank of the own second study among all; chance is .5


def test_an_opacity_puts_water_where_air_was_and_leaves_bone_and_body_outline_alone() -> None:
    patient, study = PhantomPatient.draw(3, 1), PhantomStudy.draw(3, 1, 0, Finding.OPACITY)
    ill, well = tissue(patient, study, (96, 96)), tissue(patient, replace(study, opacities=()), (96, 96))
    assert np.array_equal(ill.bone, well.bone)
    assert (ill.lung <= well.lung + 1e-3).all() and ill.lung.sum() < 0.98 * well.lung.sum()
    outside = well.lung == 0
    np.testing.assert_allclose(ill.soft[outside], well.soft[outside], rtol=1e-5)


def test_a_consolidation_beside_the_heart_takes_its_border_away() -> None:
    patient, drawn = PhantomPatient.draw(3, 4), PhantomStudy.draw(3, 4, 0, Finding.NORMAL)
    well = replace(drawn, rotation=0.0, shift_mm=(0.0, 0.0), magnification=1.0, oblique=0.0, view="PA")
    lingula = Opacity(90, 55, (60, 60), 0.0, 0.9, 0.2, None, False, 1)

    def border(study: PhantomStudy) -> float:
        """Return the steepest fall of attenuation from the heart's left side to the lung, bones left out."""
        path = tissue(patient, study, (192, 192))
        left = slice(96 + round(50 / study.vendor.field_mm * 192), 96 + round(115 / study.vendor.field_mm * 192))
        row = 96 + round(55 / study.vendor.field_mm * 192)
        attenuation = SOFT * path.soft + LUNG * path.lung
        return float(-np.diff(attenuation[row - 6 : row + 7, left].mean(0)).min())

    assert border(replace(well, opacities=(lingula,))) < 0.5 * border(well)


# --- what must not tell


@settings(max_examples=50)
@given(st.integers(0, 2**31), st.integers(0, 1000), st.integers(0, 3))
def test_nothing_but_the_opacities_depends_on_the_finding(seed: int, patient: int, number: int) -> None:
    normal, ill = (PhantomStudy.draw(seed, patient, number, finding) for finding in Finding)
    assert normal.finding is Finding.NORMAL and ill.finding is Finding.OPACITY
    assert replace(ill, opacities=()) == normal


def test_the_outer_frame_does_not_tell_the_finding(sample: Sample) -> None:
    frame = np.ones(sample.images.shape[1:], bool)
    frame[4:-4, 4:-4] = False
    assert abs(cross_validated_auroc(sample.images[:, frame], sample.opacity, 0.01) - 0.5) < 0.12


def test_vendor_and_brightness_do_not_tell_the_finding(sample: Sample) -> None:
    cues = np.column_stack([np.eye(len(VENDORS))[sample.vendor], sample.images.mean((1, 2))])
    assert abs(cross_validated_auroc(cues, sample.opacity) - 0.5) < 0.12


def test_a_thumbnail_tells_a_little_and_pixels_leave_headroom(sample: Sample) -> None:
    level = sample.images.mean((1, 2), keepdims=True)
    images = (sample.images - level) / sample.images.std((1, 2), keepdims=True)
    assert 0.6 < cross_validated_auroc(shrink(images, 4), sample.opacity) < 0.85
    pixels = shrink(images, 64)
    model = make_pipeline(PCA(64, whiten=True, random_state=0), LogisticRegression(C=0.03, max_iter=2000))
    model.fit(pixels[:250], sample.opacity[:250])
    assert 0.65 < roc_auc_score(sample.opacity[250:], model.decision_function(pixels[250:])) < 0.85


# --- the export


def test_the_same_seed_writes_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_export(tmp_path / name, 5, seed=seed, shape=(48, 48))
    a, b, c = (files(tmp_path / name) for name in "abc")
    assert a == b
    assert a.keys().isdisjoint(c.keys() - {"labels.csv", "viewer.txt"}) and a["labels.csv"] != c["labels.csv"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "c"]  # no partial folder stays


def test_every_labelled_study_is_one_readable_radiograph_in_its_stated_range(export: Path) -> None:
    with (export / "labels.csv").open(newline="", encoding="utf-8") as handle:
        labels = {row["study_uid"]: row["finding"] for row in csv.DictReader(handle)}
    assert set(labels.values()) == set(Finding)
    seen, syntaxes, photometric = set(), set(), set()
    for path in export.rglob("*.dcm"):
        ds = pydicom.dcmread(path)
        if ds.StudyInstanceUID not in labels or ds.Modality == "SR":
            continue
        pixels = ds.pixel_array
        assert pixels.shape == (64, 80) and pixels.max() < 2**ds.BitsStored and ds.HighBit == ds.BitsStored - 1
        assert (pixels.min(), pixels.max()) == (ds.SmallestImagePixelValue, ds.LargestImagePixelValue)
        for value in (ds.SOPInstanceUID, ds.SeriesInstanceUID, ds.StudyInstanceUID):
            assert value.is_valid and value.startswith("2.25.") and int(value[5:]) < 2**128
        assert ds.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID
        assert ds.Modality in ("DX", "CR") and ds.PatientBirthDate < ds.StudyDate and len(ds.PixelSpacing) == 2
        seen.add(ds.StudyInstanceUID)
        syntaxes.add(ds.file_meta.TransferSyntaxUID.name)
        photometric.add(ds.PhotometricInterpretation)
    assert seen == labels.keys()
    assert len(syntaxes) == 3 and photometric == {"MONOCHROME1", "MONOCHROME2"}


def test_window_rescale_and_photometric_give_the_radiograph_back(export: Path) -> None:
    shown = [image for path in export.rglob("*.dcm") if (image := displayed(path)) is not None]
    inverted = set()
    for number in range(16):
        studies = [PhantomStudy.draw(5, number, 0, finding) for finding in Finding]
        wanted = [radiograph(PhantomPatient.draw(5, number), study, (64, 80)) for study in studies]
        vendor = studies[0].vendor
        low, high = vendor.range_used
        step = 1 / ((high - low) * 2**vendor.bits)
        assert min(float(np.abs(image - want).max()) for image in shown for want in wanted) < step
        inverted.add(vendor.inverted)
    assert inverted == {False, True}


def displayed(path: Path) -> Array | None:
    """Return the displayed image as a viewer makes it, None for what is no whole image."""
    ds = pydicom.dcmread(path)
    if ds.Modality == "SR" or len(ds.get("PixelData", b"")) < 100:
        return None
    try:
        values = ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
    except ValueError:
        return None
    shown = (values - (float(ds.WindowCenter) - float(ds.WindowWidth) / 2)) / float(ds.WindowWidth)
    return np.asarray(1 - shown if ds.PhotometricInterpretation == "MONOCHROME1" else shown, np.float32)


def test_the_export_is_as_messy_as_it_says(export: Path) -> None:
    copies = list(export.rglob("copy_*.dcm"))
    assert len(copies) == 4
    assert all(c.read_bytes() == c.with_name(c.name.removeprefix("copy_")).read_bytes() for c in copies)
    assert len([p for p in export.rglob("*.dcm") if pydicom.dcmread(p).Modality == "SR"]) == 1
    with pytest.raises(InvalidDicomError):
        pydicom.dcmread(export / "viewer.txt")
    labelled = (export / "labels.csv").read_text(encoding="utf-8")
    (cut,) = [p for p in export.rglob("*.dcm") if pydicom.dcmread(p).StudyInstanceUID not in labelled]
    with pytest.raises((ValueError, AttributeError)):
        _ = pydicom.dcmread(cut).pixel_array


def test_patients_keep_their_identity_over_ascending_study_dates(export: Path) -> None:
    by_patient: dict[str, list[pydicom.Dataset]] = {}
    for path in export.rglob("*.dcm"):
        ds = pydicom.dcmread(path, stop_before_pixels=True)
        by_patient.setdefault(ds.PatientID, []).append(ds)
    assert len(by_patient) == 16
    for studies in by_patient.values():
        assert len({(str(ds.PatientName), ds.PatientBirthDate, ds.PatientSex) for ds in studies}) == 1
        dates = sorted({ds.StudyInstanceUID: ds.StudyDate for ds in studies}.values())
        assert all(a < b for a, b in pairwise(dates))


def test_an_export_refuses_a_folder_in_use_and_an_empty_world(export: Path, tmp_path: Path) -> None:
    before = files(export)
    with pytest.raises(MedsslError, match="new or an empty folder"):
        write_export(export, 1, seed=0)
    assert files(export) == before
    with pytest.raises(MedsslError, match="num_patients: 0"):
        write_export(tmp_path / "none", 0, seed=0)
    assert not (tmp_path / "none").exists()
