"""The journal keeps what a run said, through crashes, resumes and odd numbers."""

from __future__ import annotations

import errno
import io
import json
import math
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medssl.core.errors import EncoderError, Preempted, RunError, StudyError
from medssl.core.score import Score
from medssl.tracking import journal as journal_module
from medssl.tracking.journal import Journal, Status
from medssl.tracking.records import JOURNAL, latest, read_lines, read_run, read_runs

AUROC = Score("auroc", 0.873, 0.841, 0.902, 120)


def started(workspace: Path, kind: str = "pretrain", **more: dict[str, str]) -> Journal:
    return Journal.start(workspace, kind, "chest", {"seed": 0, "method": {"name": "mae"}}, **more)


def test_a_run_reads_back_as_it_was_written(tmp_path: Path) -> None:
    with started(tmp_path, fingerprints={"pool": "abc"}, parents={"pool": "ingest-1"}) as journal:
        journal.metrics(1, {"loss": 0.5})
        journal.metrics(2, {"loss": 0.25, "knn": AUROC})
        journal.note("feature std is falling")
        journal.finish(summary={"loss": 0.25, "decision": "go", "linear": AUROC})
    run = read_run(journal.folder)
    assert re.fullmatch(r"pretrain-\d{8}-\d{6}-[0-9a-f]{4}", run.id)
    assert (run.kind, run.study, run.status, run.folder) == ("pretrain", "chest", "finished", journal.folder)
    assert run.params == {"seed": 0, "method": {"name": "mae"}}
    assert (run.fingerprints, run.parents) == ({"pool": "abc"}, {"pool": "ingest-1"})
    assert run.metrics == {"loss": ((1, 0.5), (2, 0.25)), "knn": ((2, 0.873),)}
    assert run.scores == {"knn": AUROC, "linear": AUROC}
    assert run.summary == {"loss": 0.25, "decision": "go", "linear": AUROC}
    assert run.notes == ("feature std is falling",)
    assert 0 <= run.seconds == (run.ended - run.started).total_seconds()


@settings()  # it writes to disk
@given(st.tuples(st.floats(), st.floats(), st.floats()), st.floats(), st.text(min_size=1))
def test_any_figure_survives_the_round_trip_as_strict_json(
    interval: tuple[float, float, float], figure: float, name: str
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        journal = started(Path(folder))
        journal.metrics(3, {name: figure, name + "'": Score("auroc", *interval, 7, 0.9)})
        run = read_run(journal.folder)

        def refuse(constant: str) -> None:
            raise AssertionError(f"{constant} is no JSON")

        for line in (journal.folder / JOURNAL).read_text().splitlines():
            json.loads(line, parse_constant=refuse)
    assert same(run.metrics[name][0][1], figure)
    score = run.scores[name + "'"]
    assert all(map(same, (score.value, score.low, score.high), interval))
    assert (score.n, score.level) == (7, 0.9)


def same(left: float, right: float) -> bool:
    return left == right or (math.isnan(left) and math.isnan(right))


def test_a_line_torn_by_a_crash_is_left_out_and_the_run_goes_on_after_it(tmp_path: Path) -> None:
    journal = started(tmp_path)
    journal.metrics(1, {"loss": 0.5})
    with (journal.folder / JOURNAL).open("ab") as handle:
        handle.write(b'{"type": "metrics", "step": 2, "val')
    run = read_run(journal.folder)
    assert (run.status, run.metrics, run.notes) == ("unfinished", {"loss": ((1, 0.5),)}, ())
    with Journal.resume(journal.folder) as resumed:
        resumed.metrics(2, {"loss": 0.4})
    run = read_run(journal.folder)
    assert (run.status, run.metrics) == ("finished", {"loss": ((1, 0.5), (2, 0.4))})
    assert run.notes == ("damaged journal lines skipped: 1",)


def test_a_reader_continues_at_its_offset_and_never_reads_half_a_line(tmp_path: Path) -> None:
    journal = started(tmp_path)
    lines, offset, _ = read_lines(journal.folder)
    assert [line["type"] for line in lines] == ["start"]
    with (journal.folder / JOURNAL).open("ab") as handle:
        handle.write(b'{"type": "note",')
    assert read_lines(journal.folder, offset) == ([], offset, 0)
    with (journal.folder / JOURNAL).open("ab") as handle:
        handle.write(b' "text": "x"}\n')
    assert read_lines(journal.folder, offset)[0] == [{"type": "note", "text": "x"}]


def test_after_a_resume_the_steps_that_were_done_again_count_once(tmp_path: Path) -> None:
    journal = started(tmp_path)
    for step in (10, 20, 30, 40):
        journal.metrics(step, {"loss": float(step)})
    journal.metrics(40, {"rankme": 5.0})
    resumed = Journal.resume(journal.folder)
    resumed.metrics(30, {"loss": 3.0})
    assert resumed.id == journal.id
    run = read_run(journal.folder)
    assert run.metrics == {"loss": ((10, 10.0), (20, 20.0), (30, 3.0))}


def test_the_pause_before_a_resume_is_no_training_time(tmp_path: Path) -> None:
    journal = started(tmp_path)
    path = journal.folder / JOURNAL
    start = json.loads(path.read_text())
    rest = [
        {"type": "finish", "time": "2026-01-01T10:00:30+00:00", "status": "preempted", "summary": {}},
        {"type": "resume", "time": "2026-01-01T12:00:00+00:00"},
        {"type": "note", "time": "2026-01-01T12:00:12+00:00", "text": "on again"},
    ]
    lines = [start | {"time": "2026-01-01T10:00:00+00:00"}, *rest]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = read_run(journal.folder)
    assert (run.seconds, run.status) == (42.0, "unfinished")


@pytest.mark.parametrize(
    ("error", "status", "note"),
    [
        (Preempted("stopped at step 3"), "preempted", "Preempted: stopped at step 3"),
        (StudyError("seed: 'x' is not right"), "failed", "StudyError: seed: 'x' is not right"),
        (ValueError("/data/DOE^JOHN/1.dcm"), "failed", "ValueError"),
        (KeyboardInterrupt(), "failed", "KeyboardInterrupt"),
    ],
)
def test_an_exception_decides_the_status_and_only_our_own_text_is_kept(
    tmp_path: Path, error: BaseException, status: str, note: str
) -> None:
    journal = started(tmp_path)
    with pytest.raises(type(error)), journal:
        raise error
    run = read_run(journal.folder)
    assert (run.status, run.notes) == (status, (note,))
    assert "DOE" not in (journal.folder / JOURNAL).read_text()


def test_a_note_after_the_end_does_not_reopen_the_run(tmp_path: Path) -> None:
    journal = started(tmp_path)
    journal.finish(summary={"num": 3.0})
    journal.note("late")
    run = read_run(journal.folder)
    assert (run.status, run.summary, run.notes) == ("finished", {"num": 3.0}, ("late",))


def test_an_artifact_from_elsewhere_is_copied_into_the_run(tmp_path: Path) -> None:
    (tmp_path / "sheet.png").write_bytes(b"sheet")
    journal = started(tmp_path / "work")
    inside = journal.folder / "pictures" / "a.png"
    inside.parent.mkdir()
    inside.write_bytes(b"a")
    journal.artifact(tmp_path / "sheet.png", "sheets")
    journal.artifact(inside)
    run = read_run(journal.folder)
    assert [(a.path, a.folder) for a in run.artifacts] == [("sheets/sheet.png", "sheets"), ("pictures/a.png", "")]
    assert (journal.folder / "sheets" / "sheet.png").read_bytes() == b"sheet"
    with pytest.raises(RunError, match=r"artifact 'none.png' is not a file"):
        journal.artifact(tmp_path / "none.png")


def test_damaged_runs_are_named_and_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = started(tmp_path), started(tmp_path, "evaluate")
    (tmp_path / "runs" / "pretrain-empty").mkdir()
    (tmp_path / "runs" / "stray.txt").write_text("not a run")
    headless = started(tmp_path, "select")
    headless.note("x")
    path = headless.folder / JOURNAL
    path.write_bytes(path.read_bytes().partition(b"\n")[2])
    assert {run.id for run in read_runs(tmp_path)} == {first.id, second.id}
    told = capsys.readouterr().err
    assert "pretrain-empty" in told
    assert headless.id in told
    with pytest.raises(RunError, match=headless.id):
        Journal.resume(headless.folder)


def test_runs_come_oldest_first(tmp_path: Path) -> None:
    ids = [started(tmp_path, kind).id for kind in ("select", "ingest", "pretrain")]
    for i, run in enumerate(ids):  # the clock may not have moved between them
        path = tmp_path / "runs" / run / JOURNAL
        line = json.loads(path.read_text()) | {"time": f"2026-01-0{i + 1}T00:00:00.000+00:00"}
        path.write_text(json.dumps(line) + "\n")
    assert [run.id for run in read_runs(tmp_path)] == ids


def test_the_latest_finished_run_with_the_same_fingerprints_is_found(tmp_path: Path) -> None:
    ids = []
    endings: tuple[tuple[str, Status], ...] = (("a", "finished"), ("b", "finished"), ("a", "failed"))
    for encoder, status in endings:
        journal = started(tmp_path, fingerprints={"encoder": encoder, "pool": "p"})
        journal.finish(status)
        ids.append(journal.id)
    assert found(tmp_path, ("encoder", "a")) == ids[0]
    assert found(tmp_path, ("encoder", "a"), ("pool", "p")) == ids[0]
    assert found(tmp_path, ("pool", "p")) in ids[:2]
    assert found(tmp_path, ("encoder", "c")) is None
    assert latest(tmp_path, "evaluate") is None
    assert latest(tmp_path / "nowhere", "pretrain") is None


def found(workspace: Path, *fingerprints: tuple[str, str]) -> str | None:
    run = latest(workspace, "pretrain", *fingerprints)
    return run.id if run else None


def test_an_error_is_noted_without_the_places_it_names(tmp_path: Path) -> None:
    with pytest.raises(EncoderError), Journal.start(tmp_path, "pretrain", "small", {}) as journal:
        raise EncoderError("/home/jane.doe/weights.pt: has 0 % of it; see s3://jane:secret@bucket/pool and runs/x")
    text = (journal.folder / "journal.jsonl").read_text()
    assert "jane" not in text
    assert "has 0 % of it" in text
    assert "runs/x" in text


def test_a_journal_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    journal = Journal.start(tmp_path, "pretrain", "small", {})
    (journal.folder / "journal.jsonl").unlink()
    (journal.folder / "journal.jsonl").mkdir()
    with pytest.raises(RunError, match="its journal cannot be written"):
        journal.note("anything")


def test_a_full_disk_keeps_lines_waiting_loses_none_and_hides_no_other_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, has_room = journal_module._append, True

    def on_a_small_disk(handle: Any, lines: bytes) -> None:
        if not has_room:
            raise OSError(errno.ENOSPC, "No space left on device")
        append(handle, lines)

    monkeypatch.setattr(journal_module, "_append", on_a_small_disk)
    with Journal.start(tmp_path, "pretrain", "s", {}) as journal:
        journal.metrics(1, {"loss": 1.0})
        has_room = False
        journal.metrics(2, {"loss": 0.5})
        journal.note("seen while there was no room")
        has_room = True
        journal.metrics(3, {"loss": 0.25})
        assert [value for _, value in read_run(journal.folder).metrics["loss"]] == [1.0, 0.5, 0.25]
        journal.finish()
    assert read_run(journal.folder).status == "finished"
    with pytest.raises(ValueError, match="what ended it"), Journal.start(tmp_path, "pretrain", "s", {}):
        has_room = False
        raise ValueError("what ended it")


def test_what_a_full_disk_takes_a_part_of_is_taken_back(tmp_path: Path) -> None:
    class Small(io.FileIO):
        def write(self, data: Any) -> int:
            return super().write(bytes(data)[: len(data) // 2]) or 0

    path = tmp_path / "journal.jsonl"
    path.write_bytes(b"a whole line\n")
    with Small(path, "a") as handle, pytest.raises(OSError, match="No space left"):
        journal_module._append(handle, b"another line\n")
    assert path.read_bytes() == b"a whole line\n"
