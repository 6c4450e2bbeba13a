"""Judge an encoder by transfer: probes trained on dev, tuned on val, reported on test, beside its baselines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl.core.errors import EvaluationError
from medssl.core.keys import hash_words
from medssl.core.types import Role
from medssl.evaluation.bootstrap import paired_difference, patient_bootstrap
from medssl.evaluation.gate import GateRule
from medssl.evaluation.metrics import Floats
from medssl.evaluation.probes import Labelled, knn_probe, linear_probe, pixels_probe
from medssl.evaluation.representation import feature_std, rankme
from medssl.evaluation.results import DECIDING, Evaluation


@dataclass(frozen=True)
class Examples:
    """What is known of ``N`` images or volumes, labelled or not.

    Attributes:
        systems: ``N D`` features each (``N *S`` pixels are flattened): ``"encoder"`` is judged, ``"random"`` is the
            same architecture untrained, ``"pixels"`` are small images; further names are further baselines.
        truth: the class of each row, None where there is no label.
        roles: ``dev``, ``val`` or ``test`` of each row.
        patients: pseudonym of each row's patient.

    Raises:
        EvaluationError: lengths differ, a feature is not finite, or a patient has rows of two roles.
    """

    systems: Mapping[str, NDArray[Any]]
    truth: Sequence[str | None]
    roles: Sequence[str]
    patients: Sequence[str]

    def __post_init__(self) -> None:
        if "encoder" not in self.systems:
            raise EvaluationError(f"no features called 'encoder' among {sorted(self.systems)}")
        num = len(self.truth)
        lengths = {name: len(x) for name, x in self.systems.items()}
        lengths |= {"roles": len(self.roles), "patients": len(self.patients)}
        for name, length in lengths.items():
            if length != num:
                raise EvaluationError(f"{name} has {length} rows, truth has {num}: they must be equal")
        unknown = sorted(set(map(str, self.roles)) - {str(r) for r in Role})
        if unknown:
            raise EvaluationError(f"unknown role {unknown[0]!r}: expected dev, val or test")
        for name, x in self.systems.items():
            bad = ~np.isfinite(x).all(axis=tuple(range(1, x.ndim)))
            if bad.any():
                raise EvaluationError(f"{name}: {bad.sum()} of {num} rows are not finite, first row {bad.argmax()}")
        sides = Counter(p for p, _ in {(p, str(r)) for p, r in zip(self.patients, self.roles, strict=True)})
        mixed = sum(num_roles > 1 for num_roles in sides.values())
        if mixed:
            raise EvaluationError(f"{mixed} patients have images of two roles; each may be dev, val or test only")


def evaluate(
    examples: Examples,
    *,
    task: str,
    rule: GateRule | None = None,
    metric: str = "auroc",
    seed: int = 0,
    num_resamples: int = 1000,
) -> Evaluation:
    """Measure every system and the paired differences of the encoder to each baseline.

    Args:
        examples: features, labels, roles, patients.
        task: name of what the labels say.
        rule: of the gate; its ``min_test_patients_per_class`` also says from when on there is a figure at all.
        metric: a name of ``METRICS``.
        seed: of the bootstrap and of the randomised PCA.
        num_resamples: of the bootstrap.

    Raises:
        EvaluationError: there is no dev row, or the metric is unknown or undefined.
    """
    rule = rule or GateRule()
    labels = _labels(examples)
    if not labels.dev.any():
        raise EvaluationError(f"none of {len(labels.dev)} rows is of role dev; probes train on dev patients only")
    given = {}
    if labels.measurable(rule):
        given = {name: _probe(name, x, labels, seed) for name, x in examples.systems.items()}
    test = labels.rows[Role.TEST]
    truth, patients = labels.y[test], labels.patients[test]
    scores, differences = {}, {}
    for name, probes in given.items():
        scores[name] = {
            kind: patient_bootstrap(metric, truth, p, patients, seed=seed, num=num_resamples)
            for kind, p in probes.items()
        }
        if name != "encoder":
            ours, theirs = given["encoder"]["linear"], probes[DECIDING.get(name, "linear")]
            differences[name] = paired_difference(metric, truth, ours, theirs, patients, seed=seed, num=num_resamples)
    encoder = np.asarray(examples.systems["encoder"]).reshape(len(labels.dev), -1)[labels.dev]
    return Evaluation(
        task=task,
        metric=metric,
        classes=labels.classes,
        num_train=len(labels.rows[Role.DEV]),
        num_val=len(labels.rows[Role.VAL]),
        num_test=len(test),
        num_test_patients=len(np.unique(patients)),
        class_patients=labels.class_patients,
        systems=scores,
        differences=differences,
        feature_std=feature_std(encoder),
        rankme=rankme(encoder),
        rule=rule,
    )


@dataclass(frozen=True)
class _Labels:
    """The labelled rows of each role, and how many patients of each class they hold."""

    classes: tuple[str, ...]
    y: NDArray[np.int64]  # class index, -1 without a label
    patients: NDArray[Any]
    dev: NDArray[np.bool_]  # labelled or not
    rows: Mapping[Role, NDArray[np.int64]]
    class_patients: Mapping[Role, Mapping[str, int]]

    def measurable(self, rule: GateRule) -> bool:
        """Return whether every class can be trained on and measured."""
        dev, test = self.class_patients[Role.DEV], self.class_patients[Role.TEST]
        enough = all(dev[c] and test[c] >= rule.min_test_patients_per_class for c in self.classes)
        return len(self.classes) > 1 and enough


def _labels(examples: Examples) -> _Labels:
    roles = np.array([str(r) for r in examples.roles], dtype=np.str_)
    classes = tuple(sorted({t for t in examples.truth if t is not None}))
    index = {name: i for i, name in enumerate(classes)}
    y = np.array([-1 if t is None else index[t] for t in examples.truth], dtype=np.int64)
    patients = np.asarray(examples.patients)
    rows = {role: np.flatnonzero((roles == role) & (y >= 0)) for role in Role}
    counts = {
        role: {name: len(np.unique(patients[of_role][y[of_role] == index[name]])) for name in classes}
        for role, of_role in rows.items()
    }
    return _Labels(classes, y, patients, roles == Role.DEV, rows, counts)


def _probe(system: str, features: NDArray[Any], labels: _Labels, seed: int) -> dict[str, Floats]:
    """Return the test probabilities of each probe of ``system``."""
    x = np.asarray(features).reshape(len(labels.y), -1)
    rows = [labels.rows[role] for role in (Role.DEV, Role.VAL, Role.TEST)]
    train, val, test = (Labelled(x[r], labels.y[r], labels.patients[r]) for r in rows)
    num_classes = len(labels.classes)
    if system == "pixels":
        state = hash_words("pca", seed) % 2**32
        return {"pca": pixels_probe(train, val, test.x, x[labels.dev], num_classes=num_classes, seed=state)}
    return {
        "knn": knn_probe(train, test.x, num_classes=num_classes),
        "linear": linear_probe(train, val, test.x, num_classes=num_classes),
    }
