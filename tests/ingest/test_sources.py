"""Every file below the sources is met once, whatever links and folders do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from synthetic_dicom import encoded, radiograph, save

from medssl.core.errors import MedsslError
from medssl.ingest.ingest import ingest
from medssl.ingest.rules import Rules
from medssl.ingest.sources import walk
from medssl.pool.key import Key
from medssl.pool.pool import Pool


def names(*sources: Path, exclude: Path = Path("/nowhere")) -> list[str]:
    return [file.relative for file in walk(sources, exclude)]


def test_files_are_named_below_their_source_in_one_order(source: Path) -> None:
    for name in ("b/2", "a", "b/10"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text("x" * len(name))
    found = walk([source], Path("/nowhere"))
    assert [(f.relative, f.below, f.num_bytes) for f in found] == [
        ("export/a", "a", 1),
        ("export/b/10", "b/10", 4),
        ("export/b/2", "b/2", 3),
    ]


def test_a_single_file_is_a_source(source: Path) -> None:
    (source / "one").write_text("x")
    (file,) = walk([source / "one"], Path("/nowhere"))
    assert (file.relative, file.below) == ("one", "one")


@pytest.fixture
def linked(source: Path, tmp_path: Path) -> Path:
    """A file, links inside the source, one of them a loop, and links to a folder, a file and nothing outside."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "far").write_text("x")
    (source / "near").write_text("x")
    (source / "loop").symlink_to(source)
    (source / "out").symlink_to(tmp_path / "elsewhere")
    (source / "zoom").symlink_to(Path("..", "elsewhere"))
    (source / "file").symlink_to("near")
    (source / "far").symlink_to(source / "loop" / ".." / "elsewhere" / "far")
    (source / "gone").symlink_to(tmp_path / "nothing")
    (source / "itself").symlink_to("itself")
    return source


def test_links_inside_a_source_are_followed_others_accounted_for_and_loops_end(linked: Path) -> None:
    assert [(file.relative, file.reason) for file in walk([linked], Path("/nowhere"))] == [
        ("export/far", "link_outside"),
        ("export/file", None),
        ("export/gone", "link_outside"),
        ("export/itself", "unreadable"),
        ("export/near", None),
        ("export/out", "link_outside"),
        ("export/zoom", "link_outside"),
    ]


def test_links_that_lead_out_of_a_source_are_followed_if_asked_for(linked: Path) -> None:
    assert [(file.relative, file.reason) for file in walk([linked], Path("/nowhere"), follow_links=True)] == [
        ("export/far", None),
        ("export/file", None),
        ("export/gone", "unreadable"),
        ("export/itself", "unreadable"),
        ("export/near", None),
        ("export/out/far", None),
    ]


def test_a_source_that_is_a_link_itself_is_where_it_leads(linked: Path, tmp_path: Path) -> None:
    (tmp_path / "given").symlink_to(linked)
    assert names(tmp_path / "given") == names(linked)


def test_what_is_no_disk_is_neither_walked_nor_opened(source: Path) -> None:
    (source / "proc").symlink_to("/proc")
    (source / "messages").symlink_to("/proc/kmsg")
    (source / "zero").symlink_to("/dev/zero")
    found = walk([source], Path("/nowhere"), follow_links=True)
    assert [(file.below, file.reason) for file in found] == [
        ("messages", "unreadable"),
        ("proc", "unreadable"),
        ("zero", "unreadable"),
    ]


def test_an_archive_of_links_says_how_to_read_it(source: Path, tmp_path: Path, pool: Pool, key: Key) -> None:
    save(radiograph("a"), tmp_path / "archive" / "a")
    (source / "a").symlink_to(tmp_path / "archive" / "a")
    with pytest.raises(MedsslError, match=r"no image among 1 files .*1 link_outside.*--follow-links reads what"):
        ingest([source], pool, key)
    (source / "b").write_bytes(encoded(radiograph("b", SeriesInstanceUID="1.2.3")))
    assert [(q.path, q.reason) for q in ingest([source], pool, key).quarantined] == [("export/a", "link_outside")]
    assert ingest([source], pool, key).num_files == 0
    again = ingest([source], pool, key, rules=Rules(follow_links=True))
    assert (again.num_files, again.num_volumes, again.quarantined) == (1, 1, ())
    without = ingest([source], pool, key)
    assert (without.num_files, without.num_known, without.num_changed) == (0, 2, 0)


def test_what_cannot_be_read_is_met_all_the_same(source: Path) -> None:
    (source / "gone").symlink_to(source / "nothing")
    os.mkfifo(source / "pipe")
    found = walk([source], Path("/nowhere"))
    assert [(f.relative, f.reason) for f in found] == [("export/gone", "unreadable"), ("export/pipe", "unreadable")]


def test_the_pool_is_no_source_of_itself(source: Path) -> None:
    (source / "pool").mkdir()
    (source / "pool" / "pool.json").write_text("{}")
    (source / "image").write_text("x")
    assert names(source, exclude=source / "pool") == ["export/image"]


def test_names_are_text_and_spelled_one_way(source: Path) -> None:
    (source / "e\u0301").write_text("x")
    Path(os.fsdecode(os.fsencode(source) + b"/\xff")).write_text("x")
    assert names(source) == ["export/\\xff", "export/\u00e9"]


def test_sources_of_one_name_may_not_share_names(tmp_path: Path) -> None:
    for parent in ("monday", "tuesday"):
        (tmp_path / parent / "export").mkdir(parents=True)
        (tmp_path / parent / "export" / "1").write_text("x")
    with pytest.raises(MedsslError, match="give the folder above both"):
        names(tmp_path / "monday" / "export", tmp_path / "tuesday" / "export")


def test_a_source_given_twice_counts_once(source: Path) -> None:
    (source / "a").write_text("x")
    assert names(source, source) == ["export/a"]


def test_nothing_to_walk_is_an_error(source: Path) -> None:
    with pytest.raises(MedsslError, match="no files below"):
        names(source)
    with pytest.raises(MedsslError, match="no such folder"):
        names(source / "none")


def test_two_spellings_of_one_name_are_two_files(source: Path) -> None:
    for name in ("e\u0301", "\u00e9"):
        (source / name).write_text(name)
    assert names(source) == ["export/\u00e9", "export/\u00e9 (2)"]
