"""``medssl demo``: the whole journey on synthetic radiographs, from DICOM to a report."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.text import Text

from medssl.core.errors import MedsslError
from medssl.core.files import atomic
from medssl.core.progress import stderr
from medssl.dicom.phantom_dicom import write_export
from medssl.pool.key import Key
from medssl.study import Study, load_study
from medssl.verbs.evaluate import evaluate
from medssl.verbs.finetune import finetune
from medssl.verbs.import_labels import import_labels
from medssl.verbs.ingest import ingest
from medssl.verbs.predict import predict
from medssl.verbs.pretrain import pretrain
from medssl.verbs.result import Result
from medssl.verbs.review import review
from medssl.verbs.select import select

MEANING = {
    "go": "The encoder earned its place on these images; whether it does on yours, only `medssl evaluate` can say.",
    "no_go": "A minute on a few hundred images made no encoder worth having, and the gate said so: that is its work.\n"
    "The classifier was fine-tuned all the same, by explicit override, so that every step could be shown.",
    "undecided": "So few test patients cannot settle it: the gate says so instead of guessing.",
}
STUDY = Path(__file__).with_name("demo.yaml")


def demo(out: Path, *, patients: int = 240, overrides: Sequence[str] = ()) -> Result:
    """Synthesise an export in ``out`` and take every step on it; the phantom's own answers play the annotator.

    Raises:
        MedsslError: ``out`` holds something already.
    """
    if out.exists() and any(out.iterdir()):
        raise MedsslError(f"{out} is not empty; remove it or name another folder with --out")
    start = time.perf_counter()
    study = _study(out, overrides)
    key, linkage = out / "site.key", out / "linkage.csv"
    Key.create(key)
    told = Narrator()
    told.say(f"synthesise radiographs of {patients} patients as DICOM")
    answers = write_export(out / "export", patients, seed=study.seed)
    folders = {"key_file": key, "workspace": study.workspace}
    told.step("ingest: every file accounted for", ingest, [out / "export"], study.pool, linkage=linkage, **folders)
    told.step("pretrain on every dev scan, without a label", pretrain, study)
    told.step("evaluate: without labels the gate stays undecided", evaluate, study)
    chosen = told.step("select-for-labeling: a random pilot, and PT4AL's picks", select, study, linkage=linkage)
    filled = fill(Path(chosen["worklist"]), answers, out / "answers.csv", study.task())
    told.step("import-labels: the annotator's answers", import_labels, study, filled, annotator="phantom", key_file=key)
    verdict = told.step("evaluate again: does it transfer?", evaluate, study)["verdict"]["decision"]
    tuned = told.step("finetune with these few labels", finetune, study, allow_no_go=verdict == "no_go")
    model = study.workspace / "runs" / tuned["run"]
    new = write_export(out / "new", 12, seed=study.seed + 1).parent
    told.step("predict on patients never seen", predict, model, [new], out=out / "predictions.csv")
    told.step("review", review, study, html=out / "report.html")
    minutes = (time.perf_counter() - start) / 60
    facts = {"study": out / "study.yaml", "pool": study.pool, "encoder": model.parent, "worklist": chosen["worklist"]}
    facts |= {"model": model, "report": out / "report.html", "verdict": verdict, "minutes": round(minutes, 2)}
    return Result({k: str(v) for k, v in facts.items()}, (_summary(study, out, facts),))


def _study(out: Path, overrides: Sequence[str]) -> Study:
    """Write the demo's study into ``out`` with its own paths, and load it from there."""
    text = STUDY.read_text(encoding="utf-8").replace(
        "pool: pool", f"name: demo\npool: {out / 'pool'}\nworkspace: {out}"
    )
    with atomic(out / "study.yaml") as partial:
        partial.write_text(text, encoding="utf-8")
    return load_study(out / "study.yaml", overrides)


def fill(worklist: Path, answers: Path, out: Path, task: str) -> Path:
    """Answer a worklist, that was written with a linkage file, from a table of ``study_uid`` and ``task``."""
    with answers.open(newline="", encoding="utf-8") as handle:
        known = {row["study_uid"]: row[task] for row in csv.DictReader(handle)}
    with worklist.open(newline="", encoding="utf-8") as handle:
        asked = [row["study_uid"] for row in csv.DictReader(handle)]
    with atomic(out) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("study_uid", task), *((uid, known[uid]) for uid in asked)])
    return out


class Narrator:
    """Says each step of the demo on stderr, so that stdout holds the summary alone."""

    def __init__(self) -> None:
        self._console: Console = stderr
        self._number = 0

    def say(self, text: str) -> None:
        """Announce what comes next."""
        self._number += 1
        self._console.print(f"\n[bold cyan]{self._number}. {text}[/]", highlight=False)

    def step(self, text: str, verb: Callable[..., Result], *args: Any, **options: Any) -> Mapping[str, Any]:
        """Announce a verb, run it, show what it returned."""
        self.say(text)
        result = verb(*args, **options)
        for part in result.shown:
            self._console.print(part, highlight=False, soft_wrap=True, markup=False)
        return result.data


def _summary(study: Study, out: Path, facts: Mapping[str, Any]) -> Panel:
    facts = {name: escape(str(value)) for name, value in facts.items()}
    lines = [
        f"[bold]gate: {facts['verdict']}[/]    ({facts['minutes']} minutes)",
        "",
        f"report      {facts['report']}  ← open this first",
        f"study       {facts['study']}",
        f"pool        {facts['pool']}",
        f"runs        {facts['encoder']}",
        f"worklist    {facts['worklist']}",
        f"model       {facts['model']}",
        f"MLflow      mlflow ui --backend-store-uri sqlite:///{study.workspace / 'mlflow.db'}",
        "",
        MEANING[str(facts["verdict"])],
        "",
        "[bold]next[/]",
        f"  medssl select-for-labeling {facts['study']}        round 1, now with a task model",
        "  medssl ingest /your/export --pool pools/yours         the same journey on your scans",
        "",
        "[dim]Synthetic images; research use only. Self-supervision lowers the need for labels, never removes it.[/]",
    ]
    return Panel(Text.from_markup("\n".join(lines)), title="medssl demo", expand=False)
