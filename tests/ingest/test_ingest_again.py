"""One run of ingest after another: every file once, new ones added, mended ones looked at again."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from kills import killed_before
from mixed_export import counts, shard_bytes, tables
from objects import framed, item, volume
from pydicom import uid
from pydicom.pixels.decoders.base import get_decoder
from synthetic_dicom import ct_slice, dataset, radiograph, save

from medssl.core.errors import MedsslError
from medssl.core.places import LocalFile
from medssl.ingest.ingest import ingest
from medssl.ingest.rules import Rules
from medssl.pool.key import Key
from medssl.pool.pool import Pool

pytestmark = pytest.mark.usefixtures("small_shards")


def test_a_second_run_adds_nothing(mixed: Path, pool: Pool, key: Key) -> None:
    ingest([mixed], pool, key)
    before = tables(pool), shard_bytes(pool)
    report = ingest([mixed], pool, key)
    assert (report.num_files, report.num_known, report.num_volumes) == (0, 20, 0)
    assert (tables(pool), shard_bytes(pool)) == before


def test_new_files_are_added_and_old_ones_not_read_again(mixed: Path, pool: Pool, key: Key) -> None:
    ingest([mixed], pool, key)
    volumes = set(pool.catalog.volumes["volume"])
    save(radiograph("late", SeriesInstanceUID="1.2.99"), mixed / "late.dcm")
    report = ingest([mixed], pool, key)
    assert counts(report) == {"stored": 1}
    assert volumes < set(pool.catalog.volumes["volume"])
    assert pool.verify() == []


def test_a_file_that_was_mended_is_a_new_file(mixed: Path, pool: Pool, key: Key) -> None:
    ingest([mixed], pool, key)
    save(radiograph("cut"), mixed / "cut.dcm", uid.RLELossless)
    assert counts(ingest([mixed], pool, key)) == {"stored": 1}
    assert ingest([mixed], pool, key).num_files == 0


def test_the_same_images_under_other_names_are_duplicates_across_runs(mixed: Path, pool: Pool, key: Key) -> None:
    ingest([mixed], pool, key)
    volumes, shards = pool.catalog.volumes.rows(), shard_bytes(pool)
    moved = mixed.rename(mixed.with_name("moved"))
    report = ingest([moved], pool, key)
    assert counts(report) == {"duplicate": 17, "quarantined": 1, "non_image": 2}
    assert pool.catalog.volumes.rows() == volumes
    assert shard_bytes(pool) == shards
    assert pool.verify() == []


def test_slices_that_come_after_their_series_are_not_made_a_volume(mixed: Path, pool: Pool, key: Key) -> None:
    ingest([mixed], pool, key)
    for z in (4, 5):
        save(ct_slice(z), mixed / "ct" / f"late{z}")
    report = ingest([mixed], pool, key)
    assert [(q.path, q.reason) for q in report.quarantined] == [
        ("export/ct/late4", "late_slices"),
        ("export/ct/late5", "late_slices"),
    ]


def test_another_export_under_known_names_is_refused(mixed: Path, tmp_path: Path, pool: Pool, key: Key) -> None:
    ingest([mixed], pool, key)
    before = tables(pool)
    other = tmp_path / "tuesday" / "export"
    elements = {"PatientID": "MRN9", "StudyInstanceUID": "9.9.9", "SeriesInstanceUID": "9.9.9.1"}
    path = save(radiograph("yy", **elements), other / "p0" / "0.dcm")
    assert path.stat().st_size == (mixed / "p0" / "0.dcm").stat().st_size
    with pytest.raises(MedsslError, match="1 of 1 folders hold other files under names that this pool knows"):
        ingest([other], pool, key)
    assert tables(pool) == before


def test_files_that_could_not_be_read_are_looked_at_again(
    source: Path, pool: Pool, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(radiograph("a"), source / "a")
    save(radiograph("b", SOPInstanceUID="1.2.9"), source / "b", uid.RLELossless)
    (source / "share").symlink_to(source.parent / "share")  # not mounted yet
    linked = Rules(follow_links=True)
    with monkeypatch.context() as without:
        without.setattr(type(get_decoder(uid.RLELossless)), "available_plugins", ())
        first = ingest([source], pool, key, rules=linked)
    assert sorted(q.reason for q in first.quarantined) == ["needs_pylibjpeg_rle", "unreadable"]
    assert ingest([source], pool, key, rules=linked).num_files == 2
    save(radiograph("c", SOPInstanceUID="1.2.10"), source.parent / "share")
    again = ingest([source], pool, key, rules=linked)
    assert again.num_files == 1
    assert not again.quarantined
    assert pool.instances.height == 3
    assert set(pool.instances["outcome"]) == {"stored"}
    assert ingest([source], pool, key, rules=linked).num_files == 0


def left_out(source: Path) -> None:
    """Write a series with a gap and a copied slice, and an image that says that text is in its pixels."""
    for z in (0, 1, 3, 4):
        save(ct_slice(z), source / f"ct{z}")
    save(ct_slice(3, "copy"), source / "copy")
    save(radiograph("text", BurnedInAnnotation="YES", SeriesInstanceUID="1.2.3"), source / "text")


ALLOWED = Rules(allow_gaps=True, burned_in="accept")


def rows(pool: Pool) -> tuple[object, ...]:
    found = Pool.open(pool.path)
    return found.catalog.volumes.rows(), sorted(found.instances.rows(), key=str), shard_bytes(found)


@pytest.mark.parametrize("workers", [1, 2])
def test_what_the_rules_of_a_run_allow_is_looked_at_again_and_once_only(
    source: Path, tmp_path: Path, pool: Pool, key: Key, workers: int
) -> None:
    left_out(source)
    assert counts(ingest([source], pool, key)) == {"quarantined": 6}
    assert ingest([source], pool, key).num_files == 0
    gaps = ingest([source], pool, key, workers=workers, rules=Rules(allow_gaps=True))
    assert (gaps.num_known, counts(gaps)) == (1, {"stored": 4, "duplicate": 1})
    text = ingest([source], pool, key, workers=workers, rules=ALLOWED)
    assert (text.num_known, counts(text)) == (5, {"stored": 1})
    assert pool.verify() == []
    for rules in (ALLOWED, Rules()):
        assert ingest([source], pool, key, rules=rules).num_files == 0
    assert set(pool.instances["outcome"]) == {"stored", "duplicate"}
    at_once = Pool.create(tmp_path / "at_once", key)
    ingest([source], at_once, key, rules=ALLOWED)
    what = ["volume", "flags", "sha256"]
    assert pool.catalog.volumes.select(what).rows() == at_once.catalog.volumes.select(what).rows()


def test_what_cannot_be_resampled_is_not_looked_at_again_for_its_gaps(source: Path, pool: Pool, key: Key) -> None:
    for z in (0, 1, 30):
        save(ct_slice(z, PatientID="MRN1"), source / f"wide{z}")
    first = ingest([source], pool, key, rules=ALLOWED)
    assert {found.reason for found in first.quarantined} == {"not_resampled"}
    assert ingest([source], pool, key, rules=ALLOWED).num_files == 0


@pytest.mark.parametrize("step", [0, 2, 4, 6, 8])
def test_killed_while_it_looks_again_by_other_rules_a_run_goes_on_to_the_same_pool(
    source: Path, tmp_path: Path, key: Key, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    left_out(source)
    whole, pool = (Pool.create(tmp_path / name, key) for name in ("whole", "killed"))
    for one in (whole, pool):
        ingest([source], one, key)
    ingest([source], whole, key, rules=ALLOWED)
    assert killed_before(
        step, lambda: ingest([source], pool, key, rules=ALLOWED), monkeypatch, ("replace", "rename", "link")
    )
    ingest([source], Pool.open(pool.path, key), key, rules=ALLOWED)
    assert rows(pool) == rows(whole)
    assert Pool.open(pool.path).verify() == []


def test_killed_anywhere_while_a_file_is_looked_at_again_the_pool_is_the_old_or_the_new_one(
    source: Path, tmp_path: Path, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    for z in range(4):
        save(ct_slice(z), source / f"ct{z}")
    (source / "share").symlink_to(tmp_path / "share")  # not mounted yet
    linked = Rules(follow_links=True)
    whole = 0
    for step in range(200):
        pool = Pool.create(tmp_path / f"pool{step}", key)
        (tmp_path / "share").unlink(missing_ok=True)
        assert counts(ingest([source], pool, key, rules=linked)) == {"stored": 4, "quarantined": 1}
        save(radiograph("late"), tmp_path / "share")
        opened = Pool.open(pool.path, key)
        whole += not killed_before(
            step,
            lambda pool=opened: ingest([source], pool, key, rules=linked),
            monkeypatch,
            ("replace", "rename", "link"),
        )
        ingest([source], Pool.open(pool.path, key), key, rules=linked)  # goes on
        found = Pool.open(pool.path, key)
        assert found.verify() == []
        assert set(found.instances["outcome"]) == {"stored"}
        assert (found.instances.height, len(found.catalog)) == (5, 2)
        save(radiograph("more", SOPInstanceUID="1.2.11"), source / "more")
        assert counts(ingest([source], found, key, rules=linked)) == {"stored": 1}
        (source / "more").unlink()
        if whole:
            break
    assert whole == 1
    assert step > 8


def two_stacks() -> Any:
    """One object of two stacks, each a volume."""
    ds = dataset(uid.EnhancedMRImageStorage, "two", Modality="MR")
    planes = volume(8)
    ds.SharedFunctionalGroupsSequence = [
        item(
            PixelMeasuresSequence=[item(PixelSpacing=[1, 1])],
            PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
        )
    ]
    ds.PerFrameFunctionalGroupsSequence = [
        item(
            FrameContentSequence=[item(StackID=str(i // 4 + 1))],
            PlanePositionSequence=[item(ImagePositionPatient=[0, 0, 2.0 * (i % 4)])],
        )
        for i in range(8)
    ]
    return framed(ds, planes)


def test_an_object_of_which_a_part_could_not_be_read_stays_stored_and_stops_no_later_run(
    source: Path, tmp_path: Path, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(two_stacks(), source / "two")
    opened, seen = LocalFile.open, set[tuple[str, ...]]()
    for failing in range(1, 9):
        pool, num = Pool.create(tmp_path / f"pool{failing}", key), 0

        def hiccup(self: LocalFile, failing: int = failing) -> Any:
            nonlocal num
            num += self.path.name == "two"
            if self.path.name == "two" and num == failing:
                raise OSError(5, "Input/output error")
            return opened(self)

        with monkeypatch.context() as patch:
            patch.setattr(LocalFile, "open", hiccup)
            with suppress(MedsslError):  # no image at all
                ingest([source], pool, key)
        seen |= {*pool.instances.select("outcome", "reason").iter_rows()}
        again = ingest([source], Pool.open(pool.path, key), key)
        assert not again.quarantined
        assert Pool.open(pool.path).verify() == []
    assert ("stored", "unreadable") in seen


def test_a_file_that_changed_and_could_then_not_be_read_is_looked_at_again(
    source: Path, pool: Pool, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(radiograph("a"), source / "a")
    (source / "b").write_bytes(b"no image")
    ingest([source], pool, key)
    save(radiograph("b", SOPInstanceUID="1.2.9"), source / "b", uid.RLELossless)
    with monkeypatch.context() as without:
        without.setattr(type(get_decoder(uid.RLELossless)), "available_plugins", ())
        assert [q.reason for q in ingest([source], pool, key).quarantined] == ["needs_pylibjpeg_rle"]
    assert counts(ingest([source], pool, key)) == {"stored": 1}
    assert ingest([source], pool, key).num_files == 0
    assert pool.verify() == []
