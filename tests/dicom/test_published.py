"""Every published file holds what is published of it, in every syntax, whichever decoder reads it."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread, uid
from pydicom.pixels import apply_color_lut
from pydicom.pixels.decoders.base import get_decoder

from medssl.core.places import LocalFile
from medssl.core.types import Outcome
from medssl.dicom import decode, frames
from medssl.dicom.decode import DECODERS, TURBO, Decoder, decode_frames, decoder_of
from medssl.dicom.header import Acquisition, Header, Ids, Person
from medssl.dicom.objects import Kind
from medssl.dicom.parse import parse
from medssl.dicom.pixels import pixel_format
from medssl.dicom.quiet import quiet
from medssl.dicom.read import read_header
from medssl.dicom.reasons import DicomProblem, Reason
from medssl.dicom.wanted import WANTED

JPEG = "1.2.840.10008.1.2.4."
# Decoded here, not by the toolset behind the table; the file that holds the same pixels.
PARTNERS = {
    "pydicom_data/liver_deflate.dcm": "pydicom_data/liver.dcm",
    "pydicom_data/liver_rle.dcm": "pydicom_data/liver.dcm",
    "pydicom_data/liver_nonbyte_aligned_deflate.dcm": "pydicom_data/liver_nonbyte_aligned.dcm",
    "pydicom_data/liver_nonbyte_aligned_rle.dcm": "pydicom_data/liver_nonbyte_aligned.dcm",
    "pydicom/test_files/JPEG-lossy.dcm": "pydicom/test_files/JPGExtended.dcm",
    "pydicom_data/OT-PAL-8-face.dcm": "",  # without a transfer syntax: read as what it is
}
# (decoder, file): why it does not decode what the pinned one does.
CANNOT = {
    ("pillow", "ct_transfer_syntaxes/CTImage.dcm_JPEGProcess2_4TransferSyntax_1.2.840.10008.1.2.4.51.dcm"): "12 bits",
    ("pillow", "pydicom/test_files/JPGExtended.dcm"): "12 bits",
    ("pillow", "pydicom/test_files/GDCMJ2K_TextGBR.dcm"): "a JP2 header around the codestream",
    ("gdcm", "pydicom_data/JLSL_08_07_0_1F.dcm"): "7 bits",
}


def header_of(path: Path) -> Header:
    """Return the header of any image, also of a class that makes no volume or without UIDs."""
    parsed = parse(LocalFile(path), WANTED)
    if parsed.is_cut:
        raise DicomProblem(Reason.TRUNCATED)
    pixels = pixel_format(parsed)
    found = frames.unlocated(parsed.fields, pixels.num_encoded, is_signed=pixels.is_signed)
    nobody = Person("", "", "", "", frozenset()), Acquisition("", "", "", "", "", "", "", (), "", ())
    return Header(Kind.CINE, Ids("", "", "", "", "", frozenset()), nobody[0], pixels, found, nobody[1])


@cache
def voxels(path: Path) -> NDArray[Any] | Reason:
    """Return the pixels as ``pydicom`` calls them: all frames, MONOCHROME1 as stored."""
    with quiet():
        try:
            header = header_of(path)
            found = [one.array for one in decode_frames(LocalFile(path), header, header.frames)]
        except DicomProblem as problem:
            return problem.reason
    array = found[0] if len(found) == 1 else np.stack(found)
    if header.pixels.photometric == "MONOCHROME1":
        array = (1 << header.pixels.bits_stored) - 1 - array
    return array


@pytest.fixture(scope="module")
def rows(shared_dicom: Path) -> list[dict[str, str]]:
    with (shared_dicom / "EXPECTED.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def fingerprint(array: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def test_every_decodable_image_has_its_published_voxels(shared_dicom: Path, rows: list[dict[str, str]]) -> None:
    seen: Counter[str] = Counter()
    for row in rows:
        path, twelve_bit = shared_dicom / row["file"], row["transfer_syntax_uid"] == JPEG + "51"
        if row["decodable"] != "yes":
            continue
        found = voxels(path)
        if row["photometric"] == "PALETTE COLOR":
            if row["transfer_syntax_uid"] != uid.ExplicitVRBigEndian:  # whose tables pydicom reads unswapped
                assert np.array_equal(found, applied(path)), row["file"]
        elif twelve_bit:  # the published values are of a decoder with another cosine transform
            assert abs(int(np.min(found)) - int(row["min"])) <= 1, row["file"]
            assert int(np.max(found)) == int(row["max"]), row["file"]
        else:
            assert not isinstance(found, Reason), (row["file"], found)
            assert fingerprint(found.astype(row["dtype"])) == row["array_sha256_16"], row["file"]
            assert "x".join(map(str, found.shape)) == row["array_shape"], row["file"]
        seen["twelve bits" if twelve_bit else "right"] += 1
    assert seen == {"right": 181, "twelve bits": 2}


def applied(path: Path) -> NDArray[Any]:
    with quiet():
        ds = dcmread(path)
        found: NDArray[Any] = apply_color_lut(ds.pixel_array, ds)
        return found


def test_every_undecodable_image_has_a_reason_or_more_than_published(
    shared_dicom: Path, rows: list[dict[str, str]]
) -> None:
    reasons: Counter[Reason] = Counter()
    for row in rows:
        found = voxels(shared_dicom / row["file"]) if row["decodable"] == "no" else None
        if isinstance(found, Reason):
            assert row["failure"] == "damaged", row["file"]
            assert found.outcome is Outcome.QUARANTINED
            reasons[found] += 1
        elif found is not None and row["file"] in PARTNERS:
            partner = PARTNERS[row["file"]]
            assert not partner or np.array_equal(found, voxels(shared_dicom / partner)), row["file"]
        elif found is not None:
            assert row["transfer_syntax_uid"] in (JPEG + "53", JPEG + "55"), row["file"]
    assert reasons == {Reason.TRUNCATED: 2, Reason.BAD_PIXEL_FORMAT: 2, Reason.DECODE_FAILED: 1}


def test_what_is_no_image_never_becomes_one(shared_dicom: Path, rows: list[dict[str, str]]) -> None:
    others = [row for row in rows if row["kind"] == "non_image"]
    assert len(others) == 83
    for row in others:
        found = read_header(LocalFile(shared_dicom / row["file"]))
        assert found.header is None, row["file"]
        assert found.reason is not None


def test_big_endian_palettes_give_the_colours_of_little_endian_ones(shared_dicom: Path) -> None:
    folder = shared_dicom / "pydicom_data"
    for name, swapped in (
        ("OBXXXX1A", "OBXXXX1A_expb"),
        ("OBXXXX1A_2frame", "OBXXXX1A_expb_2frame"),
        ("gdcm-US-ALOKA-16", "gdcm-US-ALOKA-16_big"),
    ):
        assert np.array_equal(voxels(folder / f"{name}.dcm"), voxels(folder / f"{swapped}.dcm"))


def test_one_ct_slice_is_the_same_in_every_syntax(shared_dicom: Path) -> None:
    found = {path.name.rsplit("_", 1)[-1]: voxels(path) for path in (shared_dicom / "ct_transfer_syntaxes").iterdir()}
    assert len(found) == 16
    plain = found.pop("CTImage.dcm")
    lossless = [key for key in found if not key.startswith(tuple(f"{JPEG}{n}." for n in (50, 51, 53, 55, 81, 91)))]
    assert len(lossless) == 9
    assert all(np.array_equal(found[key], plain) for key in lossless)
    for number in (53, 55):  # the progressive streams were made out of the sequential one
        assert np.array_equal(found[f"{JPEG}{number}.dcm"], found[f"{JPEG}51.dcm"])


def test_every_decoder_agrees_with_the_pinned_one(
    shared_dicom: Path, rows: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    failed, num_compared = set(), 0
    for row in rows:
        syntax, path = row["transfer_syntax_uid"], shared_dicom / row["file"]
        if row["decodable"] != "yes" or not DECODERS[syntax].plugin:
            continue
        pinned = decoder_of(header_of(path).pixels)
        plugins = {*get_decoder(syntax).available_plugins, *get_decoder(pinned.of or syntax).available_plugins}
        for plugin in plugins - {pinned.plugin}:
            another = Decoder(plugin, of=pinned.of if plugin == "gdcm" else "")  # which decodes more than pydicom asks
            with monkeypatch.context() as patched:
                patched.setattr(decode, "decoder_of", lambda pixels, another=another: another)
                other = voxels.__wrapped__(path)
            if isinstance(other, Reason):
                failed.add((plugin, row["file"]))
            else:
                assert np.array_equal(other, voxels(path)), (plugin, row["file"])
                num_compared += 1
    assert failed == CANNOT.keys()
    assert num_compared == 84


def test_every_decoder_is_installed_and_named() -> None:
    for syntax, decoder in DECODERS.items():
        assert decoder.is_installed(syntax), decoder.package
        assert not decoder.plugin or decoder.missing is not Reason.UNSUPPORTED_SYNTAX
    assert TURBO.package == "imagecodecs"


@pytest.mark.parametrize("syntax", [syntax for syntax, decoder in DECODERS.items() if decoder.plugin])
def test_a_missing_decoder_is_a_reason_that_names_its_package(
    syntax: str, shared_dicom: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shared_dicom / "ct_transfer_syntaxes" / "CTImage.dcm"
    header = header_of(path)
    header = replace(header, pixels=replace(header.pixels, transfer_syntax=str(syntax)))
    monkeypatch.setattr(type(get_decoder(uid.RLELossless)), "available_plugins", ())
    with pytest.raises(DicomProblem) as caught:
        next(decode_frames(LocalFile(path), header, header.frames))
    package = {"imagecodecs": "imagecodecs", "pyjpegls": "pyjpegls", "pillow": "pillow", "pylibjpeg": "pylibjpeg_"}
    plugin = TURBO.plugin if syntax == uid.JPEGExtended12Bit else DECODERS[syntax].plugin  # of these sixteen bits
    assert caught.value.reason.startswith(f"needs_{package[plugin]}")
    assert caught.value.reason.outcome is Outcome.QUARANTINED
