"""The command line: words in, results out; every verb is imported when it is called, so that help stays quick."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer
from rich.console import Console
from rich.text import Text

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
pool_app = typer.Typer(no_args_is_help=True, help="Look at a pool, or copy one.")
app.add_typer(pool_app, name="pool")

DISTRIBUTED = ("pretrain", "embed")

StudyFile = Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="the study", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]…", help="e.g. method.mask_ratio=0.6", show_default=False)
]
PoolFolder = Annotated[Path, typer.Argument(metavar="POOL", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="print the result as JSON")]
Task = Annotated[str | None, typer.Option("--task", help="which of the study's tasks; not needed where there is one")]
EncoderOption = Annotated[
    str | None, typer.Option("--encoder", metavar="RUN|PATH", help="default: the latest that fits the study")
]
KeyFile = Annotated[
    Path | None, typer.Option("--key", metavar="FILE", help="default: ~/.config/medssl/key, made if absent")
]
Linkage = Annotated[
    Path | None, typer.Option("--linkage", metavar="FILE", help="pseudonyms and original ids; keep it safe")
]


def _call(verb: str, *args: Any, as_json: bool, **kwargs: Any) -> None:
    """Run ``medssl.verbs.<module>:<function>`` and print what it returns."""
    module, function = verb.split(":")
    if os.environ.get("WORLD_SIZE", "1") != "1" and module not in DISTRIBUTED:
        raise MedsslError(f"{module} runs in one process; torchrun is for {' and '.join(DISTRIBUTED)}")
    result = getattr(import_module(f"medssl.verbs.{module}"), function)(*args, **kwargs)
    if os.environ.get("RANK", "0") != "0":
        raise typer.Exit(result.exit_code)  # rank 0 speaks for all
    if as_json:
        sys.stdout.write(json.dumps(result.data, indent=2, default=str) + "\n")
    else:
        console = Console(soft_wrap=True)
        for part in result.shown:
            console.print(part, highlight=False, markup=False)
    raise typer.Exit(result.exit_code)


def _study(path: Path, overrides: list[str] | None) -> Any:
    load: Callable[..., Any] = import_module("medssl.study").load_study
    return load(path, overrides or [])


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
    _call(
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
        prepare=_study(prepare, None).prepare if prepare is not None else None,
        scheduler=scheduler,
        fresh=fresh,
        rules=import_module("medssl.ingest.rules").Rules(allow_gaps=allow_gaps, burned_in=burned_in),
        quarantine_list=quarantine_list,
        images=images,
    )


@pool_app.command("info", epilog="Example: medssl pool info pools/chest --html pool.html")
def pool_info(
    pool: PoolFolder,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="write a page with pictures")] = None,
    json: Json = False,
) -> None:
    """Count what a pool holds, and what became of every input file."""
    _call("pool:info", pool, as_json=json, html=html)


@pool_app.command("verify", epilog="Example: medssl pool verify pools/chest")
def pool_verify(pool: PoolFolder, json: Json = False) -> None:
    """Check every stored byte and every promise of the catalog."""
    _call("pool:verify", pool, as_json=json)


@pool_app.command("export-nifti", epilog="Example: medssl pool export-nifti pools/chest nifti/ --role dev")
def pool_export_nifti(
    pool: PoolFolder,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="new, empty, or an earlier export", show_default=False)],
    volume: Annotated[list[str] | None, typer.Option(metavar="ID", help="only these; may be repeated")] = None,
    study: Annotated[list[str] | None, typer.Option(metavar="ID", help="only of these; may be repeated")] = None,
    role: Annotated[list[str] | None, typer.Option(metavar="dev|val|test", help="only of these")] = None,
    json: Json = False,
) -> None:
    """Write volumes as NIfTI in RAS+: OUT/<patient>/<study>/<volume>.nii.gz, pseudonyms only."""
    options = {"volumes": volume or [], "studies": study or [], "roles": role or []}
    _call("export_nifti:export_nifti", pool, out, as_json=json, **options)


@pool_app.command("remove", epilog="Example: medssl pool remove pools/chest --patient 4711 --issuer north")
def pool_remove(
    pool: PoolFolder,
    patient: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="original id, or pseudonym; may be repeated")
    ] = None,
    file: Annotated[Path | None, typer.Option(metavar="FILE", help="more of them, one a line")] = None,
    issuer: Annotated[str, typer.Option(metavar="TEXT", help="of the original ids")] = "",
    key: KeyFile = None,
    workspace: Annotated[Path, typer.Option(metavar="DIR", help="whose runs and worklists are looked through")] = Path(
        "workspace"
    ),
    json: Json = False,
) -> None:
    """Erase patients for good: voxels, rows, labels, prepared stores; names the runs that used them."""
    options = {"listed": file, "issuer": issuer, "key_file": key, "workspace": workspace}
    _call("remove:remove", pool, patient or [], as_json=json, **options)


@pool_app.command("pull", epilog="Example: medssl pool pull s3://bucket/chest pools/chest --most-gb 200")
def pool_pull(
    url: Annotated[str, typer.Argument(metavar="URL", help="e.g. s3://… or file:///…", show_default=False)],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="new, or an earlier copy", show_default=False)],
    most_gb: Annotated[
        float | None, typer.Option(min=0, help="fetch shards when they are read, and keep at most so much of them")
    ] = None,
    json: Json = False,
) -> None:
    """Copy a remote pool, whole or bit by bit as it is read; an interrupted or outdated copy goes on."""
    _call("pool:pull", url, folder, as_json=json, most_gb=most_gb)


@app.command(epilog="Example: medssl plan configs/chest_xray.yaml")
def plan(study: StudyFile, overrides: Overrides = None, json: Json = False) -> None:
    """Disk, memory and hours of a study, measured in a minute before anything starts; a sheet of example views."""
    _call("plan:plan", _study(study, overrides), as_json=json)


@app.command(epilog="Example: medssl pretrain configs/chest_xray.yaml loop.epochs=5")
def pretrain(
    study: StudyFile,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on where the last run of this study stopped")] = False,
    json: Json = False,
) -> None:
    """Train an encoder on every unlabelled scan of dev patients."""
    _call("pretrain:pretrain", _study(study, overrides), as_json=json, resume=resume)


@app.command(epilog="Example: medssl evaluate configs/chest_xray.yaml --task pneumonia")
def evaluate(
    study: StudyFile, overrides: Overrides = None, task: Task = None, encoder: EncoderOption = None, json: Json = False
) -> None:
    """Does it transfer? Probes against baselines, and a verdict: go, no_go (exit code 4) or undecided."""
    _call("evaluate:evaluate", _study(study, overrides), as_json=json, task=task, encoder=encoder)


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
    _call("embed:embed", _study(study, overrides), as_json=json, encoder=encoder, out=out, losses=losses)


@app.command(
    "select-for-labeling", epilog="Example: medssl select-for-labeling configs/chest_xray.yaml selection.budget=50"
)
def select_for_labeling(
    study: StudyFile, overrides: Overrides = None, task: Task = None, linkage: Linkage = None, json: Json = False
) -> None:
    """Rank unlabelled studies; write a worklist and a contact sheet."""
    _call("select:select", _study(study, overrides), as_json=json, task=task, linkage=linkage)


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
    _call("import_labels:import_labels", _study(study, overrides), file, as_json=json, **options)


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
    _call("finetune:finetune", _study(study, overrides), as_json=json, **options)


@app.command(epilog="Example: medssl predict workspace/runs/finetune-… new_scans/ --out predictions.csv")
def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="a fine-tuned run", show_default=False)],
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT…", help="DICOM, or a pool", show_default=False)],
    out: Annotated[Path, typer.Option(metavar="CSV", help="where the table goes")] = Path("predictions.csv"),
    workers: Annotated[int, typer.Option(min=1)] = 1,
    json: Json = False,
) -> None:
    """Class probabilities for new scans. Research use only."""
    _call("predict:predict", model, inputs, as_json=json, out=out, workers=workers)


@app.command(epilog="Example: medssl review configs/chest_xray.yaml --html report.html")
def review(
    study: StudyFile,
    overrides: Overrides = None,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="write the report there")] = None,
    json: Json = False,
) -> None:
    """Put the runs of a study side by side; bring MLflow up to date; write the report."""
    _call("review:review", _study(study, overrides), as_json=json, html=html)


@app.command(epilog="Example: medssl demo --out demo")
def demo(
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="new or empty")] = Path("demo"),
    patients: Annotated[int, typer.Option(min=40, help="synthetic patients")] = 240,
    json: Json = False,
) -> None:
    """The whole journey on synthetic radiographs, in minutes on a CPU."""
    _call("demo:demo", out, as_json=json, patients=patients, overrides=overrides or [])


@app.command(epilog="Example: medssl methods")
def methods(json: Json = False) -> None:
    """List the self-supervised methods."""
    _call("listing:methods", as_json=json)


@app.command(epilog="Example: medssl strategies")
def strategies(json: Json = False) -> None:
    """List the selection strategies."""
    _call("listing:strategies", as_json=json)


@app.command(epilog="Example: medssl encoders")
def encoders(json: Json = False) -> None:
    """List the encoders."""
    _call("listing:encoders", as_json=json)


@app.command(epilog="Example: medssl doctor")
def doctor(json: Json = False) -> None:
    """Check that this installation can work."""
    _call("doctor:doctor", as_json=json)


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
