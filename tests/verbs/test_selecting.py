"""What selecting asks for and refuses: labels, a task model, a budget that can be met, a linkage of this pool."""

from pathlib import Path

import numpy as np
import pytest
from journeys import answer, changed

from medssl.core.errors import SelectionError
from medssl.study import Study
from medssl.verbs.finetune import finetune
from medssl.verbs.import_labels import import_labels
from medssl.verbs.pretrain import pretrain
from medssl.verbs.select import select
from medssl.verbs.signals import doubt_about


def test_a_later_round_needs_a_task_model_and_a_budget_must_be_left(study: Study) -> None:
    with pytest.raises(SelectionError, match=r"selection.budget 900 is more than the \d+ unlabelled dev studies left"):
        select(changed(study, "selection.budget=900"))
    select(study)
    with pytest.raises(SelectionError, match="`medssl finetune`"):
        select(study)


def test_labels_that_came_after_the_task_model_ask_for_a_new_one(study: Study, key_file: Path, tmp_path: Path) -> None:
    pretrain(study)
    for _ in range(2):
        chosen = select(study)
        import_labels(study, answer(Path(chosen.data["worklist"]), tmp_path / "a.csv"), key_file=key_file)
        if chosen.data["round"] == 0:
            finetune(study, allow_no_go=True)
    with pytest.raises(SelectionError, match="trained on the labels that the pool holds now"):
        select(study)


def test_a_linkage_of_another_pool_is_refused_before_the_round_is_taken(study: Study, tmp_path: Path) -> None:
    (tmp_path / "linkage.csv").write_text("study,study_uid\nabc,1.2.3\n")
    with pytest.raises(SelectionError, match="the linkage file lacks"):
        select(study, linkage=tmp_path / "linkage.csv")
    assert select(study).data["round"] == 0


def test_a_batch_too_small_for_the_budget_is_said_before_anything_is_trained(study: Study) -> None:
    with pytest.raises(SelectionError, match=r"more than the \d+ studies of a batch"):
        select(changed(study, "selection.budget=30"))
    assert not list(study.workspace.glob("runs/pretext-*"))


def test_a_ranking_by_an_unlearned_or_a_solved_pretext_task_is_doubted() -> None:
    chance = float(np.log(4))
    assert "at chance" in str(doubt_about(np.full(10, chance), chance))
    assert "solved" in str(doubt_about(np.full(10, 1e-6), chance))
    assert doubt_about(np.linspace(0.1, 1, 10), chance) is None
    assert doubt_about(np.full(10, 9.0), None) is None
