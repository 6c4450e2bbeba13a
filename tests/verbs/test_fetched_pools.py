"""A study over a copy of a remote pool that fetches shards as they are read."""

from functools import partial
from pathlib import Path

import pytest
from fetched_pools import Counted, copied, prepared_pool
from journeys import FAST

from medssl.core.errors import Preempted, TrainingError
from medssl.engine.loop import Session
from medssl.pool.remote import pull
from medssl.study import load_study
from medssl.verbs.pretrain import pretrain

SHARDS, EPOCHS = 20, 3


def test_pretraining_fetches_each_shard_about_once_an_epoch_and_goes_on_with_the_cache_it_had(
    study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [*FAST, f"loop.epochs={EPOCHS}", "loop.batch_size=8", "watch.images=8", "prepare.codec=none"]
    study = load_study(study_file, options)
    source = prepared_pool(tmp_path / "source", study.prepare, SHARDS, 4)
    copied(source, study.pool, 4)
    with monkeypatch.context() as patch:
        patch.setattr("medssl.verbs.pretrain.Session", partial(Session, stop_after=EPOCHS * 10 - 3))
        with pytest.raises(Preempted):
            pretrain(study)
    assert len(Counted.fetched) < (EPOCHS + 1) * SHARDS  # looks at fixed images fetch theirs
    largest = max(path.stat().st_size for path in source.shards.glob("*.tar"))
    pull(f"counted://{source.path}", study.pool, 6 * largest)
    with pytest.raises(TrainingError, match=r"pool pull --most-gb was .* and is now"):
        pretrain(study, resume=True)
    pull(f"counted://{source.path}", study.pool, 4 * largest)
    assert pretrain(study, resume=True).data["run"]
