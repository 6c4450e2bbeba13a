"""The whole journey on a DICOM export of chest radiographs whose answers are known: who labels is simulated.

    python ../shared/tools/cxr_to_dicom.py ../shared/data/chest_xray_224 export
    python pipelines/chest_xray.py export --rounds 2

``export/ground_truth.csv`` (columns study_uid, kind, label) plays the annotator: it is asked for the studies on each
worklist and for nothing else.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from rich.console import Console

from medssl import api


def main(argv: list[str] | None = None) -> None:
    """Ingest, pretrain, evaluate, then rounds of select, label, evaluate, fine-tune; predict; review."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", type=Path)
    parser.add_argument("--study", type=Path, default=Path("configs/chest_xray.yaml"))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--key", type=Path, default=None)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    args = parser.parse_intermixed_args(argv)
    study = api.load_study(args.study, args.overrides)
    linkage, answers = study.workspace / "linkage.csv", study.workspace / "answers.csv"
    show = Console(soft_wrap=True).print

    def step(title: str, result: object) -> dict:
        show(f"\n[bold]{title}[/]", *result.shown, sep="\n")
        return dict(result.data)

    keys = {"key_file": args.key, "workspace": study.workspace}
    step("ingest", api.ingest([args.export], study.pool, workers=2, linkage=linkage, **keys))
    step("pretrain", api.pretrain(study))
    step("evaluate without labels", api.evaluate(study))
    for number in range(args.rounds):
        chosen = step(f"round {number}: select", api.select(study, linkage=linkage))
        answer(Path(chosen["worklist"]), args.export / "ground_truth.csv", answers, study.task())
        step("import labels", api.import_labels(study, answers, annotator="ground truth", key_file=args.key))
        step("evaluate", api.evaluate(study))
        model = step("fine-tune", api.finetune(study, allow_no_go=True))
    new = next(p for p in sorted(args.export.iterdir()) if p.is_dir())
    step(
        "predict", api.predict(study.workspace / "runs" / model["run"], [new], out=study.workspace / "predictions.csv")
    )
    step("review", api.review(study, html=study.workspace / "report.html"))


def answer(worklist: Path, truth: Path, out: Path, task: str) -> None:
    """Answer the studies of a worklist from the ground truth."""
    with truth.open(newline="") as handle:
        known = {row["study_uid"]: row["label"] for row in csv.DictReader(handle) if row["kind"] == "image"}
    with worklist.open(newline="") as handle, out.open("w", newline="") as answered:
        table = csv.writer(answered)
        table.writerow(["study_uid", task])
        table.writerows((row["study_uid"], known[row["study_uid"]]) for row in csv.DictReader(handle))


if __name__ == "__main__":
    main()
