"""The commands of ``medssl``, in the order of the journey."""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from medssl.cli.options import EncoderOption, Json, KeyFile, Linkage, Overrides, StudyFile, Task, call, study_of
from medssl.cli.pool import pool_app
from medssl.core.errors import EXIT_PREEMPTED, MedsslError

app = typer.Typer(
    name="medssl",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Pretrain on every unlabelled scan, prove that it transfers, choose what to label, fine-tune with few labels.",
)
app.add_typer(pool_app, name="pool")


@app.command(epilog="Example: medssl ingest /data/export --pool pools/chest --labels labels.csv --workers 2")
def ingest(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE…",
            help="folders, files, .zip, .tar, .tar.gz, DICOMDIR, s3://…, dicomweb+https://…",
            show_default=False,
        ),
    ],
    pool: Annotated[Path, typer.Option("--pool", metavar="DIR", help="new, or extended", show_default=False)],
    labels: Annotated[
        Path | None, typer.Option(metavar="CSV", help="keyed by path, SOP/series/study UID or patient id")
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option("--task", metavar="NAME[=COLUMN]", help="which label columns")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="processes; the pool is the same for any number")] = 1,
    key: KeyFile = None,
    linkage: Linkage = None,
    workspace: Annotated[Path, typer.Option(metavar="DIR", help="the study's, where the run is journalled")] = Path(
        "workspace"
    ),
    modality: Annotated[
        str | None, typer.Option(metavar="CT|MR|…", help="of NIfTI files; default: as dataset.json says, else MR")
    ] = None,
    prepare: Annotated[
        Path | None, typer.Option(metavar="STUDY.yaml", help="store nothing but what this study's prepare makes of it")
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(metavar="tcp://…", help="work on a Dask cluster; pool and sources on shared disks")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="forget what a stopped run has done")] = False,
    allow_gaps: Annotated[
        bool, typer.Option("--allow-gaps", help="resample series with missing or uneven slices, flagged")
    ] = False,
    burned_in: Annotated[
        Literal["quarantine", "mask", "accept"],
        typer.Option(help="images of kinds that write text into pixels, or say so (ultrasound, secondary capture, XA)"),
    ] = "quarantine",
    follow_links: Annotated[
        bool, typer.Option("--follow-links", help="read what links lead to outside their source, too")
    ] = False,
    images: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="PNG, JPEG, TIFF, BMP to take, by path, with what is known of them"),
    ] = None,
    quarantine_list: Annotated[
        Path | None, typer.Option(metavar="FILE", help="all quarantined files with reasons; keep it safe")
    ] = None,
    json: Json = False,
) -> None:
    """DICOM and NIfTI into a pool: every file accounted for, nothing identifying inside.

    NIfTI: the patient is sub-… of the path, else the case folder (p1/t1.nii, p2/t1.nii), else the file name.
    DICOMweb: dicomweb+https://host/dicom-web?Modality=CT, or …/studies/UID/series/UID; credentials in
    MEDSSL_DICOMWEB_TOKEN, or MEDSSL_DICOMWEB_USER and MEDSSL_DICOMWEB_PASSWORD. S3: in the usual AWS_… variables.
    """
    given = [source if "://" in source else Path(source) for source in sources]
    call(
        "ingest:ingest",
        given,
        pool,
        as_json=json,
        labels=labels,
        tasks=task or [],
        workers=workers,
        key_file=key,
        linkage=linkage,
        workspace=workspace,
        modality=modality,
        prepare=study_of(prepare, None).prepare if prepare is not None else None,
        scheduler=scheduler,
        fresh=fresh,
        rules=import_module("medssl.ingest.rules").Rules(allow_gaps, burned_in, follow_links),
        quarantine_list=quarantine_list,
        images=images,
    )


@app.command(epilog="Example: medssl plan configs/chest_xray.yaml")
def plan(study: StudyFile, overrides: Overrides = None, json: Json = False) -> None:
    """Disk, memory and hours of a study, measured in a minute before anything starts; a sheet of example views."""
    call("plan:plan", study_of(study, overrides), as_json=json)


@app.command(epilog="Example: medssl pretrain configs/chest_xray.yaml loop.epochs=5")
def pretrain(
    study: StudyFile,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on where the last run of this study stopped")] = False,
    requeued: Annotated[
        bool, typer.Option("--requeued", help="as --resume, or start where nothing was kept yet: for schedulers")
    ] = False,
    json: Json = False,
) -> None:
    """Train an encoder on every unlabelled scan of dev patients."""
    call("pretrain:pretrain", study_of(study, overrides), as_json=json, resume=resume, requeued=requeued)


@app.command(epilog="Example: medssl evaluate configs/chest_xray.yaml --task pneumonia")
def evaluate(
    study: StudyFile,
    overrides: Overrides = None,
    task: Task = None,
    encoder: Annotated[
        list[str] | None,
        typer.Option(
            "--encoder", metavar="RUN|PATH[:best]", help="of several the first is judged; default: the latest"
        ),
    ] = None,
    curve: Annotated[bool, typer.Option("--curve", help="how many labels are needed, too; takes long")] = False,
    json: Json = False,
) -> None:
    """Does it transfer? Probes, baselines, audits, and a verdict: go, no_go (exit code 4) or undecided."""
    options = {"task": task, "encoder": encoder, "curve": curve}
    call("evaluate:evaluate", study_of(study, overrides), as_json=json, **options)


@app.command(epilog="Example: medssl embed configs/chest_xray.yaml --out embeddings.parquet")
def embed(
    study: StudyFile,
    overrides: Overrides = None,
    encoder: EncoderOption = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="default: in the run's folder")] = None,
    losses: Annotated[bool, typer.Option("--losses", help="add the loss of the trained pretext task")] = False,
    json: Json = False,
) -> None:
    """Write the encoder's features of every volume of the pool as one Parquet table."""
    call("embed:embed", study_of(study, overrides), as_json=json, encoder=encoder, out=out, losses=losses)


@app.command(
    "select-for-labeling", epilog="Example: medssl select-for-labeling configs/chest_xray.yaml selection.budget=50"
)
def select_for_labeling(
    study: StudyFile, overrides: Overrides = None, task: Task = None, linkage: Linkage = None, json: Json = False
) -> None:
    """Rank unlabelled studies; write a worklist and a contact sheet."""
    call("select:select", study_of(study, overrides), as_json=json, task=task, linkage=linkage)


@app.command("import-labels", epilog="Example: medssl import-labels configs/chest_xray.yaml answers.csv")
def import_labels(
    study: StudyFile,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="the filled worklist, or a CSV with original ids", show_default=False)
    ],
    overrides: Overrides = None,
    task: Annotated[
        list[str] | None, typer.Option("--task", metavar="NAME[=COLUMN]", help="which label columns")
    ] = None,
    annotator: Annotated[str, typer.Option(help="a role or a code, not a name")] = "annotator",
    key: KeyFile = None,
    json: Json = False,
) -> None:
    """Take answers into the pool; unknown or conflicting ids are refused and nothing is half-imported."""
    options = {"tasks": task or [], "annotator": annotator, "key_file": key}
    call("import_labels:import_labels", study_of(study, overrides), file, as_json=json, **options)


@app.command(epilog="Example: medssl finetune configs/chest_xray.yaml --task pneumonia")
def finetune(
    study: StudyFile,
    overrides: Overrides = None,
    task: Task = None,
    encoder: EncoderOption = None,
    allow_no_go: Annotated[bool, typer.Option("--allow-no-go", help="go on although the gate said no_go")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="go on where the last run of this task stopped")] = False,
    json: Json = False,
) -> None:
    """Turn few labels into a classifier."""
    options = {"task": task, "encoder": encoder, "allow_no_go": allow_no_go, "resume": resume}
    call("finetune:finetune", study_of(study, overrides), as_json=json, **options)


@app.command(epilog="Example: medssl predict workspace/runs/finetune-… new_scans/ --out predictions.csv")
def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="a fine-tuned run", show_default=False)],
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT…", help="DICOM, or a pool", show_default=False)],
    out: Annotated[Path, typer.Option(metavar="CSV", help="where the table goes")] = Path("predictions.csv"),
    workers: Annotated[int, typer.Option(min=1)] = 1,
    json: Json = False,
) -> None:
    """Class probabilities for new scans. Research use only."""
    call("predict:predict", model, inputs, as_json=json, out=out, workers=workers)


@app.command(epilog="Example: medssl review configs/chest_xray.yaml --html report.html")
def review(
    study: StudyFile,
    overrides: Overrides = None,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="write the report there")] = None,
    json: Json = False,
) -> None:
    """Put the runs of a study side by side; bring MLflow up to date; write the report."""
    call("review:review", study_of(study, overrides), as_json=json, html=html)


@app.command(epilog="Example: medssl demo --out demo")
def demo(
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="new or empty")] = Path("demo"),
    patients: Annotated[int, typer.Option(min=40, help="synthetic patients")] = 240,
    json: Json = False,
) -> None:
    """The whole journey on synthetic radiographs, in minutes on a CPU."""
    call("demo:demo", out, as_json=json, patients=patients, overrides=overrides or [])


@app.command(epilog="Example: medssl methods")
def methods(json: Json = False) -> None:
    """List the self-supervised methods."""
    call("listing:methods", as_json=json)


@app.command(epilog="Example: medssl strategies")
def strategies(json: Json = False) -> None:
    """List the selection strategies."""
    call("listing:strategies", as_json=json)


@app.command(epilog="Example: medssl encoders")
def encoders(json: Json = False) -> None:
    """List the encoders."""
    call("listing:encoders", as_json=json)


@app.command(epilog="Example: medssl doctor")
def doctor(json: Json = False) -> None:
    """Check that this installation can work."""
    call("doctor:doctor", as_json=json)


def _terminate(*_: object) -> NoReturn:
    """Unwind as for an interrupt from the keyboard; training, which has more to save, listens to SIGTERM itself."""
    if os.environ.get("RANK", "0") == "0":
        sys.stderr.write("stopped by SIGTERM; run the same command again to go on\n")
    raise SystemExit(EXIT_PREEMPTED)


def main() -> None:
    """Run the command line; an error that the user can mend is one line on stderr and its exit code."""
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        app()
    except MedsslError as error:
        text = " ".join(str(error).split())
        Console(stderr=True, soft_wrap=True).print(Text.assemble(("error: ", "red"), text), highlight=False)
        raise SystemExit(error.exit_code) from None
    finally:
        signal.signal(signal.SIGTERM, before)
