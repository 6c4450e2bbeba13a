"""3D from NIfTI: pretrain on MR crops of the hippocampus, then ask the encoder whether the structure is large or small.

    python pipelines/hippocampus_3d.py ../shared/data/hippocampus

The label maps are never seen in training; only their volume, above or below the median, becomes a study's answer.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import nibabel
import numpy as np
from rich.console import Console

from medssl import api


def main(argv: list[str] | None = None) -> None:
    """Ingest with answers, pretrain, evaluate, review."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="holds images/ and labels/")
    parser.add_argument("--study", type=Path, default=Path("configs/hippocampus_3d.yaml"))
    parser.add_argument("--key", type=Path, default=None)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    args = parser.parse_intermixed_args(argv)
    study = api.load_study(args.study, args.overrides)
    show = Console(soft_wrap=True).print

    def step(title: str, result: object) -> None:
        show(f"\n[bold]{title}[/]", *result.shown, sep="\n")

    answers = study.workspace / "answers.csv"
    write_answers(args.folder / "labels", answers, study.task())
    keys = {"key_file": args.key, "workspace": study.workspace}
    step("ingest", api.ingest([args.folder], study.pool, labels=answers, tasks=[study.task()], workers=2, **keys))
    step("pretrain", api.pretrain(study))
    step("evaluate", api.evaluate(study))
    step("review", api.review(study, html=study.workspace / "report.html"))


def write_answers(labels: Path, out: Path, task: str) -> None:
    """Write ``path, task`` for every label map: is the structure larger than the median one?"""
    volume_mm3 = {}
    for path in sorted(labels.glob("*.nii*")):
        image = nibabel.load(path)
        volume_mm3[path.name] = float(np.count_nonzero(image.dataobj) * np.prod(image.header.get_zooms()[:3]))
    median = float(np.median(list(volume_mm3.values())))
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", newline="") as handle:
        table = csv.writer(handle)
        table.writerow(["path", task])
        table.writerows((f"images/{n}", "large" if mm3 > median else "small") for n, mm3 in volume_mm3.items())


if __name__ == "__main__":
    main()
