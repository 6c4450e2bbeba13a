"""Every file below the sources is met once, whatever links and folders do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from medssl.core.errors import MedsslError
from medssl.ingest.sources import walk


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


def test_links_are_followed_and_loops_end(source: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "far").write_text("x")
    (source / "near").write_text("x")
    (source / "loop").symlink_to(source)
    (source / "out").symlink_to(tmp_path / "elsewhere")
    (source / "zoom").symlink_to(tmp_path / "elsewhere")
    (source / "file").symlink_to(source / "near")
    assert names(source) == ["export/file", "export/near", "export/out/far"]


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
