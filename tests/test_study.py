"""A study is one validated file: wrong keys, values and combinations are one line that says what would be right."""

from pathlib import Path

import pytest
import yaml

from medssl.core.errors import EncoderError, MedsslError, StudyError
from medssl.study import Study, load_study

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_config_resolves_and_repeats_no_default(path: Path) -> None:
    study = load_study(path)
    written = yaml.safe_load(path.read_text())
    assert study.name == path.stem
    for section in ("prepare", "evaluation", "tracking"):
        defaults = Study.model_fields[section].get_default(call_default_factory=True)
        repeated = [k for k, v in (written.get(section) or {}).items() if defaults.data()[k] == v]
        assert not repeated, f"{section}: {repeated}"
    for chosen, section in ((study.encoder, "encoder"), (study.method, "method")):
        defaults = type(chosen.config)().data()
        repeated = [k for k, v in written[section].items() if k != "name" and defaults[k] == v]
        assert not repeated, f"{section}: {repeated}"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_config_opens_with_purpose_expectation_and_command(path: Path) -> None:
    head = [line for line in path.read_text().splitlines()[:4] if line.startswith("#")]
    assert len(head) == 3
    assert "Expected" in head[1]
    assert "Command" in head[2]


def test_there_are_configs() -> None:
    assert CONFIGS


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("method.mask_ration=0.6", "unknown key 'method.mask_ration': did you mean 'mask_ratio'?"),
        ("method.mask_ratio=1.5", "method.mask_ratio: 1.5 is not right, expected less than 1"),
        ("method.name=may", "unknown method 'may': did you mean 'mae'?"),
        ("encoder.name=vitt", "unknown encoder 'vitt': did you mean 'vit'?"),
        ("selection.strategy.name=pt4la", "unknown strategy 'pt4la': did you mean 'pt4al'?"),
        ("lop.epochs=3", "unknown key 'lop': did you mean 'loop'?"),
        ("loop.epochs=none", "loop.epochs: 'none' is not right, expected a valid integer"),
        ("selection.pretext.method.epsilon=1", "selection.pretext: unknown key 'method.epsilon'"),
        ("prepare.shape=[64]", "prepare.shape"),
        ("prepare.shape=[30, 32]", r"encoder.patch: 8 does not divide prepare.shape \[30, 32\]"),
        ("evaluation.task=other", "evaluation.task: 'other' is not one of tasks: shape"),
        ("seed=-1", "seed: -1 is not right, expected greater than or equal to 0"),
        ("novalue", "override 'novalue': expected dotted.key=value"),
        ("seed.deep=1", "'seed' holds"),
        ("method=mae", "method: expected a name and its settings"),
    ],
)
def test_a_wrong_override_is_one_line_that_says_what_would_be_right(
    study_file: Path, override: str, message: str
) -> None:
    with pytest.raises(MedsslError, match=message) as raised:
        load_study(study_file, ["seed=0", override])
    assert "\n" not in str(raised.value)
    assert raised.value.exit_code == 2


def test_a_method_on_an_encoder_that_lacks_its_needs_fails_when_the_study_loads(study_file: Path) -> None:
    with pytest.raises(EncoderError, match=r"choose encoder\.name: vit"):
        load_study(study_file, ["encoder={name: resnet}"])
    with pytest.raises(EncoderError, match=r"selection\.pretext: method mae needs"):
        load_study(study_file, ["selection.pretext.method={name: mae}"])


def test_the_methods_optimiser_is_the_default_and_the_study_overrides_it_key_by_key(study_file: Path) -> None:
    study = load_study(study_file)
    assert (study.loop.optimiser, study.loop.betas, study.loop.lr) == ("adamw", (0.9, 0.95), 0.004)
    assert study.selection.pretext is not None
    assert (study.selection.pretext.loop.optimiser, study.selection.pretext.loop.lr) == ("sgd", 0.1)


def test_the_pretraining_fingerprint_changes_with_what_shapes_the_encoder_and_with_nothing_else(
    study_file: Path,
) -> None:
    base = load_study(study_file).pretraining("images")
    for same in ("tasks.shape.loop.epochs=3", "selection.budget=9", "workspace=elsewhere"):
        assert load_study(study_file, [same]).pretraining("images") == base
    for other in ("method.mask_ratio=0.6", "loop.epochs=3", "seed=1", "prepare.window=voi", "encoder.depth=3"):
        assert load_study(study_file, [other]).pretraining("images") != base
    assert load_study(study_file).pretraining("other images") != base


def test_epochs_by_the_rule_of_a_method_and_as_many_as_the_default_are_two_pretrainings(study_file: Path) -> None:
    by_rule = load_study(study_file, ["method={name: dino}", "loop={batch_size: 16}"])
    default = load_study(study_file, ["method={name: dino}", "loop={batch_size: 16, epochs: 20}"])
    assert by_rule.loop.epochs == default.loop.epochs == 20  # until the pool is known
    assert by_rule.pretraining("images") != default.pretraining("images")


def test_a_resolved_study_validates_to_itself(study_file: Path) -> None:
    study = load_study(study_file)
    assert Study.parse(study.data()).data() == study.data()


@pytest.mark.parametrize("text", ["- a\n- b\n", "pool: [unclosed", "just words"])
def test_a_file_that_is_no_study_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(StudyError, match=r"bad\.yaml"):
        load_study(tmp_path / "bad.yaml")


def test_no_such_study_and_missing_keys_are_named(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no such study file"):
        load_study(tmp_path / "absent.yaml")
    (tmp_path / "short.yaml").write_text("method: {name: mae}\nencoder: {name: vit}\ntasks: {}\n")
    with pytest.raises(StudyError, match="missing key 'pool'"):
        load_study(tmp_path / "short.yaml")
