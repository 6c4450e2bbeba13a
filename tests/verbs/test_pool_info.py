"""``medssl pool info``: tables and a page that say what a pool holds, every reason in a plain sentence."""

from __future__ import annotations

import io
import re
from pathlib import Path

import polars as pl
import pytest
from emitted import emitted
from rich.console import Console
from small_pool import make_pool

from medssl.core.errors import MedsslError
from medssl.dicom.reasons import Reason
from medssl.ingest.quality import GEOMETRY
from medssl.pool.catalog import INSTANCES
from medssl.pool.info import _words
from medssl.pool.pool import Pool
from medssl.review.reasons import of_reason, of_word, plain
from medssl.verbs.pool import info


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    made = make_pool(tmp_path / "pool", 12)
    lost = [{"source_key": f"{n:032x}", "bytes": 9, "outcome": "quarantined", "reason": "truncated"} for n in range(3)]
    with made.writing():
        made.append(made.catalog.volumes[:0], pl.DataFrame(lost, schema=INSTANCES))
    return Pool.open(made.path)


def shown(parts: tuple[object, ...]) -> str:
    console = Console(width=100, file=io.StringIO())
    with console.capture() as captured:
        for part in parts:
            console.print(part)
    return captured.get()


def test_every_reason_and_word_has_a_sentence_that_says_what_to_do() -> None:
    for reason in Reason:
        assert of_reason(str(reason.outcome), str(reason)).endswith("."), reason
    for reason in emitted("reason"):
        assert of_reason("duplicate", reason).endswith("."), reason
    for word in emitted("flags") | emitted("words"):
        assert of_word(word).endswith("."), word
    assert of_reason("stored", None) == "In the pool."
    assert plain("reused_sop_uid") == "Reused SOP UID"


def test_the_words_that_are_written_are_found_in_expressions_constants_and_functions() -> None:
    in_a_call, in_a_function, positional, local = "reused_sop_uid", "character_set", "t_trigger_ms", "unoriented"
    by_a_constant = {"same_pixels_other_patient", "pixels_masked", "window_sigmoid"}
    assert {in_a_call, in_a_function, positional, local, "volume_frame"} | by_a_constant <= emitted("flags")
    assert {*GEOMETRY, "blank", "constant", "tiny"} <= emitted("words")
    assert emitted("reason") == {"same_pixels", "same_sop_uid"}


def test_the_terminal_shows_words_histograms_and_what_to_do(pool: Pool) -> None:
    result = info(pool.path)
    text = shown(result.shown)
    assert "The file ends too early. Export it again." in text
    assert "vendor 2" in text
    assert re.search(r"rows +40 █ 40 pixels", text)
    assert result.data["words"]["modality"]["shares"][0]["word"] == "DX"
    assert result.data["page"] is None


def test_the_page_is_one_file_with_pictures_of_dev_patients_and_no_scripts(pool: Pool, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    info(pool.path, html=page)
    text = page.read_text()
    assert "What became of every file" in text
    assert "Export it again" in text
    assert not re.findall(r'(?:src|href)="(?!data:|#)', text)
    assert "<script" not in text
    named = set(re.findall(r"<code>([0-9a-f]{12})</code><br>", text))
    dev = {v[:12] for v in pool.catalog.volumes.filter(pl.col("role") == "dev")["volume"]}
    assert named
    assert named <= dev


def test_long_lists_are_bounded() -> None:
    many = pl.DataFrame({"patient": [str(n) for n in range(500)], "scanner": [f"S{n}" for n in range(500)]})
    found = _words(many, "scanner")
    assert (len(found.shares), found.others) == (20, 480)


def test_an_empty_pool_has_a_page_too_and_a_folder_is_no_page(tmp_path: Path) -> None:
    pool = make_pool(tmp_path / "pool", 1)
    pool.remove(list(pool.catalog.volumes["patient"].unique()))
    info(pool.path, html=tmp_path / "page.html")
    assert "2 more were erased with their patients" in " ".join((tmp_path / "page.html").read_text().split())
    with pytest.raises(MedsslError, match="a folder, expected a file"):
        info(pool.path, html=tmp_path)
