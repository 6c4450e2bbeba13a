"""``medssl import-labels``: answers from a worklist, or any table of labels, into the pool."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medssl.ingest.labels import read_answers
from medssl.pool.key import Key
from medssl.pool.pool import Pool
from medssl.study import Study
from medssl.verbs.context import marks, running
from medssl.verbs.result import Result


def import_labels(
    study: Study, file: Path, *, tasks: Sequence[str] = (), annotator: str = "annotator", key_file: Path | None = None
) -> Result:
    """Add the labels of ``file`` to the study's pool; all of them or, where one is wrong, none.

    Without ``tasks`` the study's only task is read from the column of its name.
    """
    key = Key.load(key_file)
    pool = Pool.open(study.pool, key)
    answers = read_answers(file, pool, key, list(tasks) or [study.task()], annotator)
    num_added = pool.add_labels(answers.labels)
    pool = Pool.open(study.pool)
    counted = [label for label in pool.info().labels if label.task in set(answers.labels["task"])]
    with running(study, "import", marks(pool)) as journal:
        journal.finish(summary={"labels": num_added, "unanswered": answers.num_unanswered})
    text = f"{num_added} labels added, {answers.num_unanswered} cells still empty"
    lines = [f"  {c.task} = {c.value}: {c.volumes} volumes of {c.patients} {c.role} patients" for c in counted]
    facts = {
        "run": journal.id,
        "added": num_added,
        "unanswered": answers.num_unanswered,
        "labels": [vars(c) for c in counted],
    }
    return Result(facts, (text, *lines, "next: medssl evaluate, then medssl finetune"))
