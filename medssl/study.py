"""The whole experiment as one validated YAML file; every verb reads the same one.

Resolving a study checks names, values, and that encoder, method and image shape fit, before data are touched.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from annotated_types import Ge, Gt
from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from medssl.core.config import Config, fingerprint
from medssl.core.errors import MedsslError, StudyError
from medssl.core.plugins import Plugins
from medssl.core.types import Geometry
from medssl.data.prepare import PrepareConfig
from medssl.engine.optim import LoopConfig
from medssl.evaluation.config import EvaluationConfig
from medssl.evaluation.problem import Kind
from medssl.finetune.classify import ClassifyConfig
from medssl.methods.base import METHODS, check_needs
from medssl.models.encoders.base import ENCODERS
from medssl.models.weights import HUB, OWN
from medssl.selection.strategies.base import STRATEGIES


@dataclass(frozen=True)
class Choice:
    """A plugin by name, with its own validated configuration."""

    name: str
    config: Config

    def data(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {"name": self.name, **self.config.data()}


def _choose(plugins: Plugins, where: str) -> Callable[[Any], Choice]:
    def choose(value: Any) -> Choice:
        if isinstance(value, Choice):
            return value
        if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
            raise StudyError(
                f"{where}: expected a name and its settings, e.g. {{name: {plugins.names()[0]}}}, got {value!r}"
            )
        settings = {k: v for k, v in value.items() if k != "name"}
        return Choice(value["name"], plugins.load(value["name"]).config_class.parse(settings, where))

    return choose


def _prefixed(where: str) -> WrapValidator:
    def validate(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except StudyError as error:
            raise StudyError(f"{where}: {error}") from None

    return WrapValidator(validate)


_plain = PlainSerializer(lambda choice: choice.data())
EncoderChoice = Annotated[Choice, PlainValidator(_choose(ENCODERS, "encoder")), _plain]
MethodChoice = Annotated[Choice, PlainValidator(_choose(METHODS, "method")), _plain]
StrategyChoice = Annotated[Choice, PlainValidator(_choose(STRATEGIES, "selection.strategy")), _plain]


class Recipe(Config):
    """What is pretrained and how: an encoder, a method, a loop whose defaults are the method's."""

    encoder: EncoderChoice
    method: MethodChoice
    loop: LoopConfig
    init: Path | None = None  # weights to continue from: a run or encoder folder, a .safetensors or .pt file

    @model_validator(mode="before")
    @classmethod
    def _method_defaults(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or not isinstance(data.get("method"), Mapping):
            return data
        method = _choose(METHODS, "method")(data["method"])
        loop = data.get("loop") or {}
        if not isinstance(loop, Mapping):
            raise StudyError(f"loop: expected keys and values, got {loop!r}")
        return {**data, "method": method, "loop": {**METHODS.load(method.name).loop_defaults, **loop}}

    def check(self, geometry: Geometry) -> None:
        """Raise where encoder, method and geometry do not fit."""
        check_needs(self.method.name, self.encoder.name)
        ENCODERS.load(self.encoder.name).check(self.encoder.config, geometry)
        METHODS.load(self.method.name).check(self.method.config, geometry)


class TaskConfig(ClassifyConfig):
    """What labels say, and how a model of them is trained; ``order`` of the classes is what makes them ordinal."""

    kind: Kind = Kind.CLASSES
    order: tuple[str, ...] = ()


class SelectionConfig(Config):
    """Which studies to label next. ``budget`` and the pilot count studies; ``rounds`` is PT4AL's K."""

    strategy: StrategyChoice = Field(
        default_factory=lambda: _choose(STRATEGIES, "selection.strategy")({"name": "random"})
    )
    task: str | None = None
    budget: Annotated[int, Gt(0)] = 20
    rounds: Annotated[int, Gt(0)] = 5
    pilot_val: Annotated[int, Ge(0)] = 20
    pilot_test: Annotated[int, Ge(0)] = 40
    pretext: Annotated[Recipe | None, _prefixed("selection.pretext")] = None


class WatchConfig(Config):
    """What is looked at while training, never changing it.

    ``images`` (at most) are encoded every ``every_epochs`` (None: by rule, at a few percent of the time) to see a
    collapse and, where ``task`` has labels of dev patients, to follow kNN and a probe. Pictures are made of as many
    images as ``pictures`` says every ``pictures_epochs`` and at the end; 0: never.
    """

    task: str | None = None
    images: Annotated[int, Gt(0)] = 256
    every_epochs: Annotated[int, Gt(0)] | None = None
    pictures: Annotated[int, Gt(0)] = 6
    pictures_epochs: Annotated[int, Ge(0)] = 10


class TrackingConfig(Config):
    """Where MLflow keeps runs; without ``uri``, MLFLOW_TRACKING_URI or a SQLite file in the workspace."""

    uri: str | None = None
    experiment: str | None = None


def _named_tasks(value: Any) -> Any:
    if value is not None and not isinstance(value, Mapping):
        raise StudyError(f"tasks: expected names and settings, e.g. {{pneumonia: {{}}}}, got {value!r}")
    return {name: settings or {} for name, settings in (value or {}).items()}


class Study(Recipe):
    """One experiment. Relative paths are below the current folder."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    pool: Path
    workspace: Path = Path("workspace")
    seed: Annotated[int, Ge(0)] = 0
    prepare: PrepareConfig = Field(default_factory=PrepareConfig)
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)
    selection: SelectionConfig = Field(default_factory=SelectionConfig)
    watch: WatchConfig = Field(default_factory=WatchConfig)
    tasks: Annotated[dict[str, TaskConfig], BeforeValidator(_named_tasks)]
    tracking: TrackingConfig = Field(default_factory=TrackingConfig)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        self.check(self.prepare.geometry)
        if self.selection.pretext is not None:
            try:
                self.selection.pretext.check(self.prepare.geometry)
            except MedsslError as error:
                raise type(error)(f"selection.pretext: {error}") from None
        asked = {f"{section}.task": getattr(self, section).task for section in ("evaluation", "selection", "watch")}
        for where, task in asked.items():
            if task is not None and task not in self.tasks:
                raise StudyError(f"{where}: {task!r} is not one of tasks: {', '.join(sorted(self.tasks)) or 'none'}")
        return self

    def task(self, asked: str | None = None) -> str:
        """Return the task asked for, else the only one.

        Raises:
            StudyError: no such task, or several to choose from.
        """
        if asked is None and len(self.tasks) == 1:
            return next(iter(self.tasks))
        if asked is None and self.tasks:
            raise StudyError(f"the study has several tasks ({', '.join(sorted(self.tasks))}); choose with --task")
        if asked not in self.tasks:
            known = ", ".join(sorted(self.tasks)) or "none"
            raise StudyError(f"task: {asked!r} is not one of the study's tasks: {known}; choose with --task")
        return asked

    @property
    def watched_task(self) -> str | None:
        """The task whose dev labels are looked at while training: of ``watch``, of ``evaluation``, or the only one."""
        only = next(iter(self.tasks)) if len(self.tasks) == 1 else None
        return self.watch.task or self.evaluation.task or only

    def pretraining(self, images: str, recipe: Recipe | None = None) -> str:
        """Return the fingerprint of a pretraining: pool images, preparation, recipe, seed."""
        chosen = recipe or self
        loop = chosen.loop.shaping()
        if "epochs" not in chosen.loop.model_fields_set:  # the method's rule, maybe another number
            loop["epochs"] = None
        parts: list[Any] = [chosen.encoder.data(), chosen.method.data(), loop]
        parts += [] if chosen.init is None else [digest_of(chosen.init)]
        return fingerprint(images, self.prepare.data(), *parts, self.seed)


def digest_of(weights: Path) -> str:
    """Return the SHA-256 of a file of weights, or of the encoder in a folder.

    Raises:
        StudyError: no such weights.
    """
    inside = [weights / name for name in (OWN, *HUB)] if weights.is_dir() else [weights]
    file = next((path for path in inside if path.is_file()), None)
    if file is None:
        raise StudyError(
            f"init: {weights} holds no weights, expected a run, an encoder folder, .safetensors, .pt or a hub folder"
        )
    with file.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    about = file.with_name("config.json")  # says how public weights had their images scaled
    return fingerprint(digest, about.read_bytes().hex()) if about.is_file() and file.name in HUB else digest


def load_study(path: Path, overrides: Sequence[str] = ()) -> Study:
    """Read, override and validate a study; its name defaults to the file's.

    Args:
        path: a YAML file.
        overrides: ``dotted.key=value`` with YAML values.

    Raises:
        StudyError: one line that names the key, its value and what would be right.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StudyError(f"{path}: no such study file") from None
    except (yaml.YAMLError, UnicodeDecodeError, IsADirectoryError) as error:
        raise StudyError(f"{path}: not a YAML study ({' '.join(str(error).split())})") from None
    if not isinstance(data, Mapping):
        raise StudyError(f"{path}: expected keys and values, got {type(data).__name__}")
    return Study.parse(override({"name": path.stem, **data}, overrides))


def override(data: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return ``data`` with every ``dotted.key=value`` set."""
    changed: dict[str, Any] = deepcopy(dict(data))
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise StudyError(f"override {text!r}: expected dotted.key=value, e.g. loop.epochs=5")
        *sections, last = key.split(".")
        here = changed
        for section in sections:
            inner = here.get(section)
            here[section] = inner = {} if inner is None else inner
            if not isinstance(inner, dict):
                raise StudyError(f"override {text!r}: {section!r} holds {inner!r}, not keys and values")
            here = inner
        try:
            here[last] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise StudyError(f"override {text!r}: {value!r} is not a YAML value") from None
    return changed
