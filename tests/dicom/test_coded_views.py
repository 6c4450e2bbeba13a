"""From which side and of which side an image was taken, whether the header says it by a word or by a code."""

from __future__ import annotations

from pathlib import Path

import pytest
from objects import item, many_frames
from pydicom import uid
from synthetic_dicom import header_of, save

from medssl.dicom.vocabulary import VIEW_CODES, VIEWS


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian])
@pytest.mark.parametrize(("code", "view"), [("399162004", "CC"), ("R-10226", "MLO"), ("Quillfeather", "")])
def test_tomosynthesis_says_its_view_by_a_code_and_its_side_frame_by_frame(
    syntax: str, code: str, view: str, tmp_path: Path
) -> None:
    ds = many_frames(4, uid.BreastTomosynthesisImageStorage)
    ds.ViewCodeSequence = [item(CodeValue=code, CodingSchemeDesignator="SCT", CodeMeaning="view")]
    anatomy = item(FrameLaterality="R", AnatomicRegionSequence=[item(CodeValue="399368009")])
    ds.SharedFunctionalGroupsSequence[0].FrameAnatomySequence = [anatomy]
    seen = header_of(save(ds, tmp_path / "x", syntax)).acquisition
    assert (seen.view, seen.laterality) == (view, "R")
    ds.ViewPosition, ds.ImageLaterality = "ML", "L"
    seen = header_of(save(ds, tmp_path / "y", syntax)).acquisition
    assert (seen.view, seen.laterality) == ("ML", "L")


def test_frames_of_both_sides_have_no_laterality_in_common(tmp_path: Path) -> None:
    ds = many_frames(2, uid.BreastTomosynthesisImageStorage)
    for group, side in zip(ds.PerFrameFunctionalGroupsSequence, "LR", strict=True):
        group.FrameAnatomySequence = [item(FrameLaterality=side)]
    assert header_of(save(ds, tmp_path / "x")).acquisition.laterality == ""


def test_every_coded_view_is_a_view_of_the_catalog() -> None:
    assert set(VIEW_CODES.values()) <= VIEWS
