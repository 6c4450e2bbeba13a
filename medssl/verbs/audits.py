"""Look for other explanations of a score than the organ: shortcuts, scanners, copies, weak views, another domain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medssl.core.keys import view_keys
from medssl.core.types import Family, Role
from medssl.data.covers import Cover
from medssl.data.pixels import corners, frame, small_images
from medssl.data.prepare import prepare
from medssl.data.prepared import Prepared
from medssl.data.views import draw
from medssl.engine.distributed import device_for
from medssl.engine.monitors.representation import pooled
from medssl.engine.scoring import pretext_losses
from medssl.evaluation.acquisition import group_audit
from medssl.evaluation.audits import Audit, AuditConfig, Audits
from medssl.evaluation.domains import LEAST, Domain, domain_audit
from medssl.evaluation.duplicates import duplicate_audit, same_digest, same_hash, same_look
from medssl.evaluation.evaluate import class_patients, measurable
from medssl.evaluation.fits import pca_fit
from medssl.evaluation.judge import Judge
from medssl.evaluation.metrics import METRICS
from medssl.evaluation.problem import Kind, Rows
from medssl.evaluation.results import Comparison
from medssl.evaluation.shortcuts import covering_audit, pretext_audit, region_audit, texture_audit
from medssl.evaluation.view_strength import view_audit
from medssl.pool.pool import Pool
from medssl.study import Study
from medssl.verbs.context import UNTRAINED, FoundEncoder, method_of, score_folder
from medssl.verbs.domains import domain, is_enough
from medssl.verbs.looks import Looks, looked_at
from medssl.verbs.pretrain import load_method
from medssl.verbs.subject import Subject

SYSTEMS = ("encoder", "random", "pixels")
VIEWED = 256  # images whose views are compared
VIEW_EPOCH = -2  # keys that neither training nor scoring has
UNKNOWN_SOURCE = (
    "Which images the encoder was pretrained on is not known here; name their pool in evaluation.audit.source to see "
    "how far they are from these."
)
COMPARING = frozenset({Family.CONTRASTIVE, Family.DISTILLATION, Family.REDUNDANCY})


def audit(subject: Subject) -> Audits:
    """Answer every question that the labels and the run of the encoder allow; of numbers by R², of errors by AUROC."""
    study, pool, found, everything = subject.study, subject.pool, subject.found, subject.everything
    config, seed, problem = study.evaluation.audit, study.seed, subject.problem
    if not config.images:
        return Audits()
    looks = _looks(subject, looked_at(problem, config.images, seed))
    metric = subject.metric
    if problem.kind is Kind.REGRESSION:
        metric = "r2"  # a constant guess, with which they compare, has no correlation
    elif not METRICS[metric].higher_is_better:
        metric = "auroc"
    judge = replace(subject.judge, problem=looks.problem, metric=metric)
    counts = {role: class_patients(looks.problem, looks.problem.rows(role)) for role in Role}
    able = judge if measurable(looks.problem, counts, study.evaluation.gate) else None
    made, compared = _shortcuts(judge, looks, config) if able else ([], {})
    made += [
        *_groups(able, looks, config, judge),
        *_pretext(study, pool, found, looks),
        *_views(study, found, looks),
        _duplicates(able, looks, everything),
        *_domain(study, pool, found, looks, everything),
    ]
    return Audits(tuple(made), compared)


def _looks(subject: Subject, rows: Rows) -> Looks:
    """Return what is seen of these rows: whole images as they were embedded already, covered ones when asked for."""
    study, found, data = subject.study, subject.found, subject.data
    kept = data.of(data.catalog.only(data.catalog.volumes["volume"].gather(rows).to_list()))
    untrained = [found.untrained(data.geometry, study.seed, which) for which in range(UNTRAINED)]
    folder = score_folder(study, found.fingerprint, "audit")
    seen: dict[tuple[str, Cover | None, int], NDArray[Any]] = {
        (system, None, which): x[rows]
        for system, several in subject.features.items()
        for which, x in enumerate(several)
    }
    encoders = {"encoder": [found.encoder], "random": untrained}
    return Looks(encoders, kept, subject.problem.only(rows), device_for(), folder, seen)


def _shortcuts(judge: Judge, looks: Looks, config: AuditConfig) -> tuple[list[Audit], Mapping[str, Comparison]]:
    plain = {system: looks.predictions(judge, system) for system in SYSTEMS}
    pixels = looks.features("pixels")
    made, compared = [], dict[str, dict[str, Comparison]]()
    for region, see, cover in ((Cover.FRAME, frame, Cover.BORDER), (Cover.CORNERS, corners, Cover.CORNERS)):
        readers = {"pixels": judge.predicted(pca_fit(looks.problem, see(pixels), str(region)))}
        if region is Cover.FRAME:
            readers["encoder"] = looks.predictions(judge, "encoder", Cover.INTERIOR)
        made.append(region_audit(judge, str(region), readers, plain["encoder"], config.delta))
        without = {system: looks.predictions(judge, system, cover) for system in SYSTEMS}
        found, compared[cover] = covering_audit(judge, str(cover), plain, without)
        made.append(found)
    coarse, shuffled = (looks.predictions(judge, "encoder", c) for c in (Cover.LOW_PASS, Cover.PATCH_SHUFFLE))
    made.append(texture_audit(judge, plain["encoder"], coarse, shuffled, config.delta))
    return made, compared[Cover.BORDER]


def _groups(able: Judge | None, looks: Looks, config: AuditConfig, judge: Judge) -> list[Audit]:
    features = {"encoder": looks.features("encoder"), "pixels": looks.features("pixels")}
    how = {"seed": judge.seed, "num_resamples": judge.num_resamples}
    asked = [group for group in config.groups if group in looks.problem.groups]
    made = [group_audit(able, looks.problem, group, features, config.delta, **how) for group in asked]
    return [found for found in made if found is not None]


def _pretext(study: Study, pool: Pool, found: FoundEncoder, looks: Looks) -> list[Audit]:
    """Ask of encoders that this very study pretrained: only then the task that they were taught is known."""
    if found.run is None or found.fingerprint != study.pretraining(pool.fingerprints.images):
        return []
    method = load_method(study, looks.data, study.seed, study.workspace / "runs" / found.run)
    losses = {
        name: pretext_losses(method, looks.data.covered(cover), looks.device, study.seed, looks.folder / "pretext")
        for name, cover in {"plain": None, "frame": Cover.FRAME, "interior": Cover.INTERIOR}.items()
    }
    how = {"seed": study.seed, "num_resamples": study.evaluation.bootstrap}
    return [pretext_audit(losses, looks.problem.patients, method.chance_loss, **how)]


def _views(study: Study, found: FoundEncoder, looks: Looks) -> list[Audit]:
    """Draw two views of dev images as pretraining did; one view of the recipe twice, where it has one."""
    dev = np.flatnonzero(looks.problem.roles == str(Role.DEV))[:VIEWED]
    patients = looks.problem.patients[dev]
    if "method" not in found.about or len(np.unique(patients)) < 2:
        return []
    plugin, config = method_of(found.about)
    views = plugin.views(config, looks.data.geometry).views
    keys = torch.from_numpy(view_keys(study.seed, VIEW_EPOCH, looks.data.keys[dev], 2))
    images = looks.data.images(dev)
    drawn = [draw(images, keys[:, i], view) for i, view in enumerate((views[0], views[min(1, len(views) - 1)]))]
    pairs = {name: (pooled(e, drawn[0]), pooled(e, drawn[1])) for name, (e, *_) in looks.encoders.items()}
    how = {"seed": study.seed, "num_resamples": study.evaluation.bootstrap}
    return [view_audit(pairs, patients, comparing=plugin.family in COMPARING, **how)]


def _duplicates(able: Judge | None, looks: Looks, everything: Prepared) -> Audit:
    """Look for copies of the audited test images in the whole pool; by features, among the audited images."""
    volumes, here = everything.catalog.volumes, looks.data.catalog.volumes["volume"].to_numpy()
    roles = volumes["role"].to_numpy().astype(np.str_)
    known = volumes["phash"].is_not_null().to_numpy()
    hashes = volumes["phash"].fill_null(0).to_numpy()

    def look(rows: Rows) -> NDArray[Any]:
        part = everything.of(everything.catalog.only(volumes["volume"].gather(rows).to_list()))
        at = {name: i for i, name in enumerate(part.catalog.volumes["volume"])}
        return small_images(part)[[at[name] for name in volumes["volume"].gather(rows)]]

    place = {name: i for i, name in enumerate(volumes["volume"])}
    rows = np.array([place[name] for name in here])
    pixels = looks.features("pixels")
    copies = {
        "exact": same_digest(volumes["sha256"].to_numpy(), roles)[rows],
        "hash": same_hash(hashes, known, roles, look)[rows],
        "look": same_look(looks.features("encoder"), looks.problem.roles, lambda asked: pixels[asked]),
    }
    predicted = looks.predictions(able, "encoder") if able else None
    return duplicate_audit(copies, int((looks.problem.roles == str(Role.TEST)).sum()), able, predicted)


def _domain(study: Study, pool: Pool, found: FoundEncoder, looks: Looks, everything: Prepared) -> list[Audit]:
    """Compare the labelled test images with those of pretraining, whatever their brightness and contrast."""
    named, is_own = study.evaluation.audit.source, found.images == pool.fingerprints.images
    if named is None and not is_own:
        return [Audit("domain", UNKNOWN_SOURCE)]
    source = everything if named is None else prepare(Pool.open(named), study.prepare)
    pretrained, test = source.role(Role.DEV), looks.problem.rows(Role.TEST)
    if len(test) < LEAST or not len(pretrained):
        return []
    domains: list[dict[str, Domain]] = [{}, {}]
    for name, (encoder, *_) in looks.encoders.items():
        domains[0][name] = domain(encoder, pretrained, study, looks.folder / name / "source")
        domains[1][name] = Domain(looks.features(name, Cover.CONTRAST)[test], looks.problem.patients[test])
    if not is_enough(domains[0]["random"], study.seed):
        return []
    return [domain_audit(*domains, seed=study.seed, num_resamples=study.evaluation.bootstrap)]
