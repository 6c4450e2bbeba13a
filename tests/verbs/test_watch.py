"""What a study's run is watched by: dev labels only, patients apart, nothing that changes a result."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from small_pool import STUDY, make_pool

from medssl.core.errors import StudyError
from medssl.core.score import Score
from medssl.core.types import Role
from medssl.data.prepare import prepare
from medssl.data.prepared import Prepared
from medssl.engine.monitors.representation import RepresentationMonitor
from medssl.engine.nonfinite import replay
from medssl.engine.optim import LoopConfig
from medssl.pool.pool import Pool
from medssl.study import Study, load_study
from medssl.tracking.records import RunRecord, read_runs
from medssl.verbs.pretrain import feed_of, make_method, pretrain
from medssl.verbs.watch import Halves, labelled_first, look_epochs, transfer, watch, within_epoch

Open = Callable[..., Study]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("watch") / "pool"
    make_pool(path, num_patients=60)
    return path


@pytest.fixture(scope="module")
def study(pool: Path) -> Open:
    file, workspace = pool.parent / "small.yaml", pool.parent / "workspace"
    file.write_text(STUDY.format(pool=pool, workspace=workspace))
    return lambda *overrides: load_study(file, ["loop.epochs=2", *overrides])


@pytest.fixture(scope="module")
def watched(study: Open) -> tuple[Study, RunRecord]:
    """A run that is looked at as often as can be."""
    asked = study("watch.every_epochs=1", "watch.pictures_epochs=1", "watch.pictures=2")
    pretrain(asked)
    return asked, latest(asked)


@pytest.fixture(scope="module")
def dev(study: Open) -> Prepared:
    return prepare(Pool.open(study().pool), study().prepare).role(Role.DEV)


def latest(study: Study) -> RunRecord:
    return read_runs(study.workspace)[-1]


def test_both_halves_hold_every_class_and_no_patient_stands_in_both(dev: Prepared) -> None:
    rows, halves, lacking = labelled_first(dev, "shape", 40)
    assert (len(rows), lacking) == (40, None)
    assert isinstance(halves, Halves)
    volumes = dev.catalog.volumes[rows[: len(halves.y)].tolist()]
    assert volumes["patient"].to_list() == halves.patients.tolist()
    assert not set(halves.patients[halves.bank]) & set(halves.patients[~halves.bank])
    assert set(volumes["role"]) == {"dev"}
    truth = dict(dev.catalog.targets("shape").iter_rows())
    assert [("bitten", "round")[y] for y in halves.y] == [truth[v] for v in volumes["volume"]]
    counts = [((halves.y == y) & (halves.bank == bank)).sum() for y in (0, 1) for bank in (False, True)]
    assert max(counts) - min(counts) <= 1
    everyone, _, _ = labelled_first(dev, "shape", 10_000)
    assert sorted(everyone) == list(range(len(dev)))


def test_too_few_labels_are_said_in_one_line_and_no_task_is_nothing_to_say(dev: Prepared) -> None:
    rows, halves, lacking = labelled_first(dev, "shape", 12)
    assert (rows.tolist(), halves) == (list(range(12)), None)
    assert lacking is not None
    assert lacking.startswith(
        "no kNN and probe while training: of task shape they need 10 labelled dev patients a class"
    )
    assert labelled_first(dev, None, 12)[1:] == (None, None)


def test_features_that_tell_the_classes_score_high_and_noise_does_not() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(160) % 2
    halves = Halves(y, np.array([f"{i // 2}" for i in range(160)]), np.arange(160) // 2 % 2 == 0)
    noise = rng.normal(size=(160, 8)).astype(np.float32)
    for features, low, high in ((noise + 3 * y[:, None].astype(np.float32), 0.95, 1.0), (noise, 0.3, 0.7)):
        scores = transfer(features, halves, seed=0)
        assert set(scores) == {"knn", "probe"}
        assert all(low <= score.value <= high and score.low <= score.value <= score.high for score in scores.values())
        assert {(score.n, score.metric) for score in scores.values()} == {(40, "AUROC on dev")}


@pytest.mark.parametrize(
    ("looked", "images", "epochs", "every"), [(256, 5000, 20, 1), (256, 358, 100, 6), (256, 358, 30, 3), (64, 64, 4, 1)]
)
def test_looks_are_rare_where_epochs_are_short_but_ten_a_run(looked: int, images: int, epochs: int, every: int) -> None:
    assert look_epochs(looked, images, epochs) == every


def test_epochs_of_hours_are_looked_at_ten_times_each_where_figures_are_reported() -> None:
    loop = LoopConfig(batch_size=128, log_steps=10)
    assert within_epoch(512, 8000, loop) == 800
    assert within_epoch(512, 8093, loop) == 800
    assert within_epoch(512, 279, loop) is None  # 20 steps of 128 images are fewer than 7 x 512
    assert within_epoch(1, 50, loop) is None


def test_a_run_leaves_curves_with_intervals_and_pictures(watched: tuple[Study, RunRecord]) -> None:
    _, run = watched
    assert {"feature_std", "rankme", "knn", "probe", "system/cpu_cores", "data_wait"} <= set(run.metrics)
    an_epoch = run.metrics["rankme"][1][0]
    assert [step for step, _ in run.metrics["knn"]] == [0, an_epoch, 2 * an_epoch]
    assert isinstance(run.scores["knn"], Score)
    names = sorted(path.name for path in (run.folder / "pictures").iterdir())
    steps = [f"{step:08d}" for step in (an_epoch, 2 * an_epoch)]
    kinds = [f"{kind}-{step}.png" for kind in ("attention", "task", "tokens") for step in steps]
    assert names == [*kinds, "views.png"]
    assert {artifact.path for artifact in run.artifacts} >= {f"pictures/{name}" for name in names}
    for name in names:
        with Image.open(run.folder / "pictures" / name) as sheet:
            assert np.asarray(sheet).std() > 20


def test_watching_changes_neither_weights_nor_fingerprint(study: Open, watched: tuple[Study, RunRecord]) -> None:
    hardly = study("watch.every_epochs=99", "watch.pictures_epochs=0", "watch.images=3")
    pretrain(hardly)
    closely, run = watched
    weights = [record.folder / "encoder.safetensors" for record in (run, latest(hardly))]
    assert weights[0] != weights[1]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert closely.pretraining("images") == hardly.pretraining("images")
    assert not (latest(hardly).folder / "pictures").exists()


def test_collapse_is_looked_for_in_the_student_and_transfer_in_the_teacher(
    study: Open, dev: Prepared, tmp_path: Path
) -> None:
    asked = study("method={name: dino, prototypes: 16, hidden: 16, bottleneck: 8}")
    made, notes = make_method(asked, dev, asked.seed), list[str]()
    feed = feed_of(asked, asked, dev, made)
    watched = watch(asked, asked, dev, made, tmp_path, feed, torch.device("cpu"), notes.append)
    features: Any = [monitor for monitor in watched.monitors if isinstance(monitor, RepresentationMonitor)]
    assert [(one.encoder, set(one.start), set(one.floors)) for one in features] == [
        (made.encoder, {"feature_std", "rankme"}, {"feature_std", "rankme"}),
        (made.export(), {"knn", "probe"}, set()),
    ]
    assert made.export() is not made.encoder
    assert set(watched.start) == {"feature_std", "rankme", "knn", "probe"}
    assert not notes


def test_a_task_that_is_not_there_is_refused(study: Open) -> None:
    with pytest.raises(StudyError, match=r"watch\.task: 'shapes' is not one of tasks: shape"):
        study("watch.task=shapes")


def test_a_captured_step_of_a_real_pool_is_drawn_again_bit_for_bit(
    study: Open, dev: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = study()
    seen: dict[int, Any] = {}

    def spoiled(make: Any) -> Any:
        def step(self: Any, batch: Any, progress: Any) -> Any:
            output = make(self, batch, progress)
            if progress.step != 2:
                return output
            seen[progress.step] = batch
            return type(output)(output.loss * torch.nan, output.metrics)

        return step

    made = make_method(asked, dev, asked.seed)
    plugin = type(made)
    monkeypatch.setattr(plugin, "training_step", spoiled(plugin.training_step))
    pretrain(asked)
    run = latest(asked)
    path = run.folder / "nonfinite" / "step-00000002.json"
    assert any("step 2: loss or gradient not finite" in note for note in run.notes)
    volumes = dev.catalog.volumes["volume"].to_list()
    (again,) = replay(path, feed_of(asked, asked, dev, made), volumes, torch.device("cpu"))
    assert torch.equal(again.images[0], seen[2].images[0])
    assert torch.equal(again.keys, seen[2].keys)


def test_patients_without_labels_are_looked_at_all_the_same(study: Open, dev: Prepared) -> None:
    few = dev.of(dev.catalog.where(pl.col("volume").is_in(dev.catalog.volumes["volume"][:30])))
    rows, _, _ = labelled_first(few, "shape", 256)
    assert sorted(rows) == list(range(30))
