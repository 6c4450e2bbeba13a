"""What a study leaves open is settled for the steps that are really made, and for processes that share them evenly."""

from types import SimpleNamespace
from typing import Any

import pytest
from small_pool import STUDY, make_pool

from medssl.core.errors import StudyError
from medssl.core.types import Role
from medssl.data.prepare import prepare
from medssl.data.prepared import Prepared
from medssl.data.sampler import Sampler
from medssl.engine.optim import LoopConfig, peak_rate
from medssl.methods.base import METHODS
from medssl.methods.dino import teacher_momentum
from medssl.pool.pool import Pool
from medssl.study import Choice, Study, load_study
from medssl.verbs import pretrain
from medssl.verbs.pretrain import feed_of, make_method, settled


def recipe_of(name: str, **loop: Any) -> Any:
    """Return a recipe that leaves open all but its loop."""
    made = SimpleNamespace(method=Choice(name, METHODS.load(name).config_class()), loop=LoopConfig.parse(loop))
    made.model_copy = lambda update: SimpleNamespace(**update)
    return made


@pytest.mark.parametrize(
    ("num", "loop"),
    [
        (4000, {"batch_size": 128, "crops": 4}),
        (30, {"batch_size": 128}),
        (30, {"batch_size": 128, "crops": 4}),
        (250, {"batch_size": 128}),  # the last 122 wait for the next epoch
        (1000, {"batch_size": 32, "accumulate": 4}),
    ],
)
def test_epochs_by_rule_make_about_five_thousand_steps(num: int, loop: dict[str, int]) -> None:
    made = settled(recipe_of("dino", **loop), num)
    per_epoch = Sampler(num, made.loop.batch_size, made.loop.accumulate, 0, made.loop.crops).steps_per_epoch
    assert 5000 <= per_epoch * made.loop.epochs < 5000 + per_epoch


def test_epochs_that_a_study_states_stand_and_a_large_pool_has_the_papers() -> None:
    assert settled(recipe_of("dino", epochs=7), 30).loop.epochs == 7
    assert settled(recipe_of("dino", batch_size=128), 10**6).loop.epochs == 100
    assert settled(recipe_of("moco_v3", batch_size=128, crops=4), 4000).loop.epochs == 75  # 4 times through the pool


def test_the_teacher_keeps_the_pace_of_the_images_really_seen() -> None:
    made = settled(recipe_of("dino", batch_size=128, crops=4), 4000).method.config
    assert made.teacher_momentum == teacher_momentum(16_000, 128)


@pytest.mark.parametrize("loop", [{}, {"accumulate": 3}, {"batch_size": 16, "accumulate": 4}, {"crops": 4}])
def test_the_learning_rate_is_that_of_the_images_a_small_pool_has(loop: dict[str, int]) -> None:
    asked = {"batch_size": 128, "lr": 1e-3, "lr_batch": 128, **loop}
    made = settled(recipe_of("rotation", **asked), 24).loop
    images = 24 * asked.get("crops", 1)
    assert made.images_a_step == images
    assert peak_rate(made) == pytest.approx(1e-3 * images / 128)
    assert settled(recipe_of("rotation", **asked), 10**4).loop == LoopConfig.parse(asked)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("shared")
    make_pool(folder / "pool", 40)
    file = folder / "small.yaml"
    file.write_text(STUDY.format(pool=folder / "pool", workspace=folder / "workspace"))
    return load_study(file)


@pytest.fixture(scope="module")
def dev(study: Study) -> Prepared:
    found = prepare(Pool.open(study.pool), study.prepare).role(Role.DEV)
    return found.of(found.catalog.only(found.catalog.volumes["volume"][:41]))


@pytest.mark.parametrize(
    ("name", "world", "loop", "said"),
    [
        ("moco_v3", 3, {"batch_size": 32}, r"32 gives .* of 32 reads, which 3 processes .* take 30 or 33$"),
        ("moco_v3", 2, {"batch_size": 128}, r"128 gives .* of 41 reads, which 2 processes .* take 40$"),
        ("moco_v3", 2, {"batch_size": 16, "accumulate": 3}, r"of 9 and 16 reads, .* take 12$"),
        ("moco_v3", 3, {"batch_size": 32, "crops": 2}, r"of 16 reads, .* take 30 or 36$"),
        ("moco_v3", 2, {"batch_size": 3, "accumulate": 25}, r"of 2 and 3 reads, .* start fewer processes$"),
        ("moco_v3", 3, {"batch_size": 33}, None),
        ("moco_v3", 1, {"batch_size": 128}, None),
        ("rotation", 3, {"batch_size": 32}, None),
    ],
)
def test_a_method_that_couples_the_batch_refuses_unequal_shares(
    study: Study, dev: Prepared, monkeypatch: pytest.MonkeyPatch,
    name: str, world: int, loop: dict[str, int], said: str | None,
) -> None:  # fmt: skip
    plugin = METHODS.load(name)
    recipe = study.model_copy(update={"method": Choice(name, plugin.config_class()), "loop": LoopConfig.parse(loop)})
    method = make_method(recipe, dev, 0)
    monkeypatch.setattr(pretrain, "world_size", lambda: world)
    if said is None:
        assert feed_of(study, recipe, dev, method).share == (0, world)
    else:
        with pytest.raises(StudyError, match=rf"^loop\.batch_size: .*{said}"):
            feed_of(study, recipe, dev, method)
