"""From volumes to a worklist on disk and back: guards, pilot, rounds; roles never mix."""

import csv
import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medssl.core.errors import SelectionError
from medssl.core.keys import generator
from medssl.core.types import Role
from medssl.selection.guards import candidates
from medssl.selection.pilot import pilot
from medssl.selection.rounds import Rounds
from medssl.selection.strategies.base import STRATEGIES, FrozenOrder, SelectionPool
from medssl.selection.worklist import Row, Worklist

SIZES = {Role.VAL: 3, Role.TEST: 4}


def worklist_of(*studies, task="pneumonia"):
    rows = [
        Row(i + 1, s, Role.DEV if i else Role.TEST, 0.1 + i if i else None, "a reason, with a comma", "CR|x", "p.png",
            "abc", "def", 7) for i, s in enumerate(studies)
    ]  # fmt: skip
    return Worklist(task, tuple(rows))


def table_of(path):
    with path.open(encoding="utf-8-sig", newline="") as handle:
        return list(csv.DictReader(handle))


volumes = st.lists(
    st.tuples(st.integers(0, 25), st.integers(0, 12), st.booleans()), min_size=1, max_size=60
)  # study, digest, blank


@settings(max_examples=60)
@given(volumes, st.integers(0, 99), st.sets(st.integers(0, 25)))
def test_the_pilot_never_holds_dev_and_picks_never_hold_val_or_test(rows, seed, labelled):
    rng = np.random.default_rng(seed)
    role_of = {f"s{i:02}": str(rng.choice(list(Role))) for i in range(26)}
    studies = [f"s{study:02}" for study, _, _ in rows]
    roles, known = [role_of[s] for s in studies], {f"s{i:02}" for i in labelled}
    drawn = pilot(studies, roles, sizes=SIZES, seed=seed, known=known)
    assert all(role_of[p.study] == p.role != Role.DEV for p in drawn)
    assert not known & {p.study for p in drawn}
    free = candidates(studies, roles, [f"d{d}" for _, d, _ in rows], [b for _, _, b in rows], labelled=known)
    if free.studies:
        pool = SelectionPool(
            free.studies, free.studies, ["x"] * len(free.studies), pretext_losses=rng.random(len(free.studies))
        )
        for name in STRATEGIES.names():
            strategy = STRATEGIES.load(name)
            ranking = strategy(strategy.config_class()).select(pool, len(free.studies), generator(seed))
            assert all(role_of[s] == Role.DEV for s in ranking.studies)
            assert not known & set(ranking.studies)
    dev = {s for s in studies if role_of[s] == Role.DEV}
    assert dev == set(free.studies) | {e.study for e in free.excluded}  # every dev study is accounted for, once
    assert len(free.studies) + len(free.excluded) == len(dev)


def test_each_exclusion_has_its_reason_and_one_of_each_copy_stays():
    found = candidates(
        ["new", "copy", "flat", "flat", "half", "half", "done", "old", "of_test", "test", "of_done"],
        ["dev"] * 9 + ["test", "dev"],
        ["1", "1", "0", "0", "0", "2", "3", "4", "5", "5", "3"],
        [False, False, True, True, True, False, False, False, False, False, False],
        labelled={"done"},
        offered={"old"},
    )
    assert found.studies == ("copy", "half")
    assert {e.study: e.reason for e in found.excluded} == {
        "done": "already labelled",
        "flat": "blank: all voxels have one value",
        "new": "same voxels as study copy (dev)",
        "of_done": "same voxels as study done (dev)",
        "of_test": "same voxels as study test (test)",
        "old": "on the worklist of an earlier round",
    }


def test_a_study_of_two_roles_is_refused_by_guards_and_pilot():
    with pytest.raises(SelectionError, match="has the roles dev and test"):
        candidates(["a", "a"], ["dev", "test"], ["1", "2"], [False, False])
    with pytest.raises(SelectionError, match="has the roles dev and test"):
        pilot(["a", "a"], ["dev", "test"], sizes=SIZES, seed=0)
    with pytest.raises(SelectionError, match="one entry a volume"):
        candidates(["a", "a"], ["dev"], ["1", "2"], [False, False])


def test_the_pilot_has_the_sizes_asked_for_and_disturbs_no_draw_when_the_pool_grows():
    studies = [f"s{i:03}" for i in range(100)]
    roles = [("dev", "val", "test")[i % 3] for i in range(100)]
    drawn = pilot(studies, roles, sizes=SIZES, seed=1)
    assert [p.role for p in drawn] == [Role.VAL] * 3 + [Role.TEST] * 4
    assert drawn == pilot(studies[::-1] * 2, roles[::-1] * 2, sizes=SIZES, seed=1)
    assert drawn != pilot(studies, roles, sizes=SIZES, seed=2)
    grown = pilot([*studies, "t1", "t2"], [*roles, "val", "test"], sizes=SIZES, seed=1)
    assert len({p.study for p in drawn} - {p.study for p in grown}) <= 2
    assert len(pilot(studies, roles, sizes={Role.TEST: 1000}, seed=1)) == 33


def test_a_pilot_of_dev_studies_is_refused():
    with pytest.raises(SelectionError, match="val and test studies only"):
        pilot(["a"], ["dev"], sizes={Role.DEV: 1}, seed=0)


def test_a_worklist_reads_back_as_it_was_written(tmp_path):
    written = worklist_of("0123", "0e5", "00ff")  # ids that a spreadsheet reader might take for numbers
    written.write(tmp_path)
    assert Worklist.read(tmp_path) == written
    table = table_of(tmp_path / "worklist.csv")
    assert [r["study"] for r in table] == ["0123", "0e5", "00ff"]
    assert all(r["pneumonia"] == "" for r in table)
    assert "study_uid" not in table[0]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["worklist.csv", "worklist.jsonl"]


def test_original_uids_appear_only_with_a_linkage_that_knows_every_study(tmp_path):
    worklist_of("a", "b").write(tmp_path, linkage={"a": "1.2.3", "b": "1.2.4"})
    table = table_of(tmp_path / "worklist.csv")
    assert [r["study_uid"] for r in table] == ["1.2.3", "1.2.4"]
    assert json.loads((tmp_path / "worklist.jsonl").read_text().splitlines()[1])["study_uid"] == "1.2.4"
    with pytest.raises(SelectionError, match="lacks 1 of 2 studies"):
        worklist_of("a", "b").write(tmp_path, linkage={"a": "1.2.3"})


@pytest.mark.parametrize("task", ["score", "role", "study_uid"])
def test_a_task_named_like_a_column_is_refused(task):
    with pytest.raises(SelectionError, match="name of a worklist column"):
        worklist_of("a", task=task)


def test_a_worklist_without_rows_or_with_a_study_twice_is_refused():
    with pytest.raises(SelectionError, match="without rows"):
        Worklist("t", ())
    with pytest.raises(SelectionError, match="1 of 2 worklist rows repeat"):
        worklist_of("a", "a")


def test_rounds_keep_the_frozen_ranking_and_offer_nothing_twice(tmp_path):
    rounds = Rounds(tmp_path / "rounds" / "chest")
    assert (rounds.next_round, rounds.frozen(), rounds.offered()) == (0, None, frozenset())
    frozen = FrozenOrder(("c", "a", "b"), (0.1 + 0.2, 1 / 3, 1e-300), (0, 0, 1))
    rounds.open(worklist_of("a", "b"), frozen)
    assert rounds.frozen() == frozen
    with pytest.raises(SelectionError, match="1 of 2 studies were offered in an earlier round"):
        rounds.open(worklist_of("c", "b"))
    later = rounds.open(worklist_of("c", "d"), FrozenOrder(("z",), (1.0,), (0,)))
    assert sorted(p.name for p in later.iterdir()) == ["worklist.csv", "worklist.jsonl"]
    assert rounds.frozen() == frozen
    assert (rounds.next_round, rounds.offered()) == (2, frozenset("abcd"))
    assert rounds.worklist(1) == worklist_of("c", "d")
    with pytest.raises(SelectionError, match="no round 2; the next one is 2"):
        rounds.worklist(2)


def test_a_round_that_fails_half_way_leaves_nothing(tmp_path, monkeypatch):
    rounds = Rounds(tmp_path)
    original = os.fsync

    def full(descriptor):
        if any(p.name.startswith(".frozen") for p in tmp_path.rglob("*")):
            raise OSError(28, "No space left on device")
        original(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        rounds.open(worklist_of("a"), FrozenOrder(("a",), (1.0,), (0,)))
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".0.999.partial").mkdir()  # what a killed process leaves is no round
    assert rounds.next_round == 0
    rounds.open(worklist_of("a"))
    assert rounds.worklist(0).studies == ("a",)


def test_two_processes_cannot_open_the_same_round(tmp_path, monkeypatch):
    rounds = Rounds(tmp_path)
    rounds.open(worklist_of("a"))
    monkeypatch.setattr(Rounds, "next_round", 0)
    monkeypatch.setattr(Rounds, "offered", lambda self: frozenset())
    with pytest.raises(SelectionError, match="round 0 was opened by another process"):
        rounds.open(worklist_of("b"))
    assert rounds.worklist(0).studies == ("a",)


def test_pictures_are_in_the_round_when_it_appears_and_a_failing_picture_leaves_no_round(tmp_path):
    rounds = Rounds(tmp_path)

    def draw(folder):
        (folder / "sheet.png").write_bytes(b"png")

    assert (rounds.open(worklist_of("a"), illustrate=draw) / "sheet.png").is_file()

    def fail(folder):
        draw(folder)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        rounds.open(worklist_of("b"), illustrate=fail)
    assert [p.name for p in tmp_path.iterdir()] == ["0"]
