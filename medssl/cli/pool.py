"""``medssl pool``: look at a pool, copy it, take patients out of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medssl.cli.options import Json, KeyFile, PoolFolder, call

pool_app = typer.Typer(no_args_is_help=True, help="Look at a pool, or copy one.")


@pool_app.command("info", epilog="Example: medssl pool info pools/chest --html pool.html")
def pool_info(
    pool: PoolFolder,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="write a page with pictures")] = None,
    json: Json = False,
) -> None:
    """Count what a pool holds, and what became of every input file."""
    call("pool:info", pool, as_json=json, html=html)


@pool_app.command("verify", epilog="Example: medssl pool verify pools/chest")
def pool_verify(pool: PoolFolder, json: Json = False) -> None:
    """Check every stored byte and every promise of the catalog."""
    call("pool:verify", pool, as_json=json)


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
    call("export_nifti:export_nifti", pool, out, as_json=json, **options)


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
    call("remove:remove", pool, patient or [], as_json=json, **options)


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
    call("pool:pull", url, folder, as_json=json, most_gb=most_gb)
