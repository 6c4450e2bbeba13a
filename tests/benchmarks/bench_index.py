"""Index and plan many synthetic headers: files a second, peak memory of the main process and of its workers.

    python tests/benchmarks/bench_index.py --files 1000000 --workers 2 [--real 100000] [--build]

Real files: tiny radiographs on disk, each with its own UIDs, are listed, read and planned as by `medssl ingest`.
Beyond ``--real`` the files are invented: each place serves one of a few CT or radiograph headers, in which UIDs,
and patient are replaced by as many bytes of the file's number. Every byte that a disk would give is
parsed all the same; what is left out is the disk, and `stat`. Voxels are never touched unless ``--build`` says so,
which takes the real files on to a committed pool.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

sys.path.insert(0, str(Path(__file__).parents[1] / "dicom"))

import polars as pl
from synthetic_dicom import ct_slice, radiograph, save

from medssl.dicom.deidentify import Pseudonyms
from medssl.ingest.executors import Workers
from medssl.ingest.index import Listing, index
from medssl.ingest.ingest import ingest
from medssl.ingest.known import Known
from medssl.ingest.planning import plan, table
from medssl.ingest.sources import SourceFile, stream
from medssl.ingest.work import Work
from medssl.pool.key import Key
from medssl.pool.pool import Pool

SLICES = 200  # of one CT series
MARK = "1.2.826.0.1.3680043.10.998.7777777777777777777777777"


@dataclass(frozen=True, slots=True)
class Invented:
    """A file that is made when it is opened: a template with its own UIDs and patient."""

    template: Path
    number: int

    def open(self) -> BinaryIO:
        """Return its bytes."""
        data = _template(self.template)
        series = self.number // SLICES
        for level, value in (("1", self.number), ("2", series), ("3", series // 4)):
            data = data.replace(f"{MARK}.{level}".encode(), f"{MARK[:-12]}{value:012d}.{level}".encode())
        return io.BytesIO(data.replace(b"MRN0000000", f"MRN{series // 8:07d}".encode()))

    def mark(self) -> str:
        """Return its number."""
        return str(self.number)


_templates: dict[Path, bytes] = {}


def _template(path: Path) -> bytes:
    if path not in _templates:
        _templates[path] = path.read_bytes()
    return _templates[path]


def invented(folder: Path, start: int, stop: int) -> Iterator[SourceFile]:
    """Yield invented slices, in folders of a series each."""
    uids = {"SOPInstanceUID": f"{MARK}.1", "SeriesInstanceUID": f"{MARK}.2", "StudyInstanceUID": f"{MARK}.3"}
    path = save(ct_slice(0, **uids, PatientID="MRN0000000"), folder / "template.dcm")
    size = path.stat().st_size
    for number in range(start, stop):
        relative = f"invented/{number // SLICES // 100:05d}/{number // SLICES:07d}/IM{number % SLICES:05d}.dcm"
        yield SourceFile(Invented(path, number), relative, size, str(number))


def real(folder: Path, num: int) -> Path:
    """Write tiny radiographs with patients, studies and UIDs of their own."""
    root = folder / "export"
    for number in range(num):
        path = root / f"{number // 1000:04d}" / f"{number // 4:08d}" / f"IM{number % 4}.dcm"
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        elements = {"PatientID": f"MRN{number // 4:07d}", "StudyInstanceUID": f"1.2.{number // 2}"}
        save(radiograph(f"x{number}", **elements, SeriesInstanceUID=f"1.3.{number}"), path)
    return root


def peak_mb(workers: Workers | None = None) -> int:
    """Return the peak memory of this process, or of the largest of its workers."""
    if workers is None or workers._pool is None:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    texts = [Path(f"/proc/{process}/status").read_text() for process in workers._pool._processes]
    return max(int(line.split()[1]) for text in texts for line in text.splitlines() if line[:6] == "VmHWM:") // 1024


class Clock:
    """Notes how long each part took."""

    def __init__(self) -> None:
        self.last, self.parts = time.perf_counter(), dict[str, dict[str, float]]()

    def note(self, part: str, num: int) -> None:
        """End ``part``, which went through ``num`` files."""
        now = time.perf_counter()
        self.parts[part] = {"s": round(now - self.last, 1), "files_per_s": round(num / (now - self.last))}
        self.parts[part]["peak_mb_main"] = peak_mb()
        self.last = time.perf_counter()
        print(part, self.parts[part], file=sys.stderr, flush=True)


def run(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """List, index and plan."""
    root = real(Path(args.keep) if args.keep else folder, args.real) if args.real else None
    pool, key = Pool.create(folder / "pool", Key(b"k" * 32)), Key(b"k" * 32)
    work, clock = Work.beside(pool.path), Clock()
    work.open(pool.path)
    pseudonyms = Pseudonyms(key)
    listing, known = Listing(work, None), Known(pool, pseudonyms)
    if root is not None:
        for _, name, file in known.sort(stream([root], pool.path)):
            listing.add(name, file)
        clock.note("list_real", args.real)
    for _, name, file in known.sort(invented(folder, args.real, args.files)):
        listing.add(name, file)
    listing.close()
    clock.note("list_invented", args.files - args.real)
    with Workers(args.workers) as workers:
        read = index(listing.chunks, work, workers, pseudonyms)
        files = pl.concat([table(i, rows) for i, rows in enumerate(read)])
        worker_mb = peak_mb(workers)
    clock.note("index", args.files)
    planned = plan(files, listing.chunks, known.series, work, 0, key)
    num_shards = sum(1 for _ in planned.tasks())
    clock.note("plan", args.files)
    one = next(planned.tasks())
    began = time.perf_counter()
    num_items = sum(len(unit.items) for unit in one.load().units)
    load_us = (time.perf_counter() - began) / num_items * 1e6
    size = sum(path.stat().st_size for path in (work.folder / "headers").iterdir())
    return {
        "files": args.files,
        "real": args.real,
        "workers": args.workers,
        "cores": os.cpu_count(),
        "parts": clock.parts,
        "shards": num_shards,
        "header_bytes_a_file": round(size / args.files),
        "load_us_a_header": round(load_us, 1),
        "peak_mb_main": peak_mb(),
        "peak_mb_worker": worker_mb,
        "rows_table_mb": round(files.estimated_size("mb")),
    }


def build(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Ingest the real files into a pool."""
    root, key = real(Path(args.keep) if args.keep else folder, args.real), Key(b"k" * 32)
    began = time.perf_counter()
    with Workers(args.workers) as workers:
        report = ingest([root], Pool.create(folder / "pool", key), key, workers=workers)
        worker_mb = peak_mb(workers)
    seconds = time.perf_counter() - began
    tables = sum(path.stat().st_size for path in (folder / "pool" / "catalog").glob("*.parquet"))
    return {
        "files": report.num_files,
        "volumes": report.num_volumes,
        "s": round(seconds, 1),
        "files_per_s": round(report.num_files / seconds),
        "catalog_bytes_a_file": round(tables / report.num_files),
        "peak_mb_main": peak_mb(),
        "peak_mb_worker": worker_mb,
    }


def main() -> None:
    """Run and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--real", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--build", action="store_true")
    parser.add_argument("--keep", help="a folder for the real files, used again")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bench-index-", dir=args.keep))
    try:
        json.dump(build(args, folder) if args.build else run(args, folder), sys.stdout, indent=2)
        print()
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
