"""Mutated DICOM files by the thousand: each must end as an image, a mask or a reason, in bounded time and memory.

    python tests/dicom/fuzz.py --files 100000 --seed 0 --workers 2

Prints how many ended how; exit code 1 if one raised, hung, or killed its process on reading its header. A decoder that
kills its process is what ingest's workers are for: it calls that decoder_died. The same seed gives the same files.
"""

from __future__ import annotations

import argparse
import faulthandler
import io
import os
import random
import resource
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO

sys.path.insert(0, str(Path(__file__).parent))

from drawings import drawn_masks, grid_of, seg_of, series, square, structure_set
from objects import many_frames
from pydicom import uid
from synthetic_dicom import LOSSLESS, ct_slice, encoded, radiograph

from medssl.dicom import read
from medssl.dicom.decode import decode_frames
from medssl.dicom.objects import Kind, kind_of
from medssl.dicom.quiet import quiet
from medssl.dicom.reasons import DicomProblem, Reason
from medssl.dicom.segmentation import Grid, read_segmentation

MAX_FILE = 96 << 10  # bytes of a file to mutate
SECONDS_A_FILE = 30
MEMORY = 3 << 30  # bytes of address space, of which Python and the decoders take one
BROKEN = 70  # exit code of a worker that failed outside of the files
FAILED = ("raised", "hung", "died")


@dataclass(frozen=True)
class InMemory:
    """The bytes of a file that no disk holds."""

    data: bytes

    def open(self) -> BinaryIO:
        """Return its bytes."""
        return io.BytesIO(self.data)

    def mark(self) -> str:
        """Return its size."""
        return str(len(self.data))


@cache
def corpus() -> list[bytes]:
    """Return small sound and odd files, published ones where the shared data is there, in a fixed order."""
    default = Path(__file__).parents[2].parent / "shared"
    folder = Path(os.environ.get("MEDSSL_SHARED", default)) / "data"
    paths = sorted(path for path in folder.glob("dicom_*/**/*") if path.is_file() and "oracle" not in path.parts)
    published = [path.read_bytes() for path in paths if path.suffix != ".csv" and path.stat().st_size <= MAX_FILE]
    synthetic = [encoded(make(), syntax) for make in (radiograph, lambda: ct_slice(1.0)) for syntax in LOSSLESS]
    synthetic += [encoded(many_frames(4), syntax) for syntax in LOSSLESS]
    synthetic += segmentations()
    return published + synthetic * max(1, len(published) // len(synthetic) // 2)


def segmentations() -> list[bytes]:
    """Return a SEG and a structure set that lie on ``grid``, explicit, implicit and deflated."""
    images = series()
    contours = [square(grid(), 3, 4.5, 20.5), square(grid(), 3, 9.5, 12.5), square(grid(), 4, 2.5, 5.5)]
    made = seg_of(images, drawn_masks(images)), structure_set(images, contours)
    syntaxes = (uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.DeflatedExplicitVRLittleEndian)
    return [encoded(ds, syntax) for ds in made for syntax in syntaxes]


@cache
def grid() -> Grid:
    """Return the grid of the images that the synthetic segmentations are drawn on."""
    return grid_of(series())


def mutated(rng: random.Random, files: Sequence[bytes]) -> bytes:
    """Return one of ``files`` with one to five damages."""
    data = bytearray(rng.choice(files))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5))):
        if len(data) > 8:
            rng.choices(DAMAGES, WEIGHTS)[0](rng, data, rng.choice(files))
    return bytes(data)


def _flip(rng: random.Random, data: bytearray, other: bytes) -> None:
    for _ in range(rng.choice((1, 1, 4, 32))):
        data[_place(rng, data)] ^= 1 << rng.randrange(8)


def _overwrite(rng: random.Random, data: bytearray, other: bytes) -> None:
    at = _place(rng, data)
    data[at : at + 4] = rng.choice((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xfe\xff\xff\xff", b"\0\0\0\x80", b"\xff\x7f"))


def _cut(rng: random.Random, data: bytearray, other: bytes) -> None:
    del data[rng.randrange(len(data)) :]


def _length(rng: random.Random, data: bytearray, other: bytes) -> None:
    """Change the length of what looks like an element."""
    at = _element(rng, data)
    data[at + 6 : at + 8] = rng.choice((0, 1, 2, 0xFFFF, rng.randrange(65536))).to_bytes(2, "little")


def _swap(rng: random.Random, data: bytearray, other: bytes) -> None:
    one, two = _element(rng, data), _element(rng, data)
    data[one : one + 4], data[two : two + 4] = data[two : two + 4], data[one : one + 4]


def _splice(rng: random.Random, data: bytearray, other: bytes) -> None:
    at, start, num = _place(rng, data), rng.randrange(len(other) or 1), rng.choice((8, 64, 512, 4096))
    data[at : at + rng.choice((0, num))] = other[start : start + num]


def _repeat(rng: random.Random, data: bytearray, other: bytes) -> None:
    at, num = _element(rng, data), rng.choice((8, 64, 512))
    data[at:at] = data[at : at + num] * rng.choice((1, 3, 200))


DAMAGES: tuple[Callable[[random.Random, bytearray, bytes], None], ...] = (
    _flip,
    _overwrite,
    _cut,
    _length,
    _swap,
    _splice,
    _repeat,
)
WEIGHTS = (10, 5, 1, 4, 2, 3, 2)


def _place(rng: random.Random, data: bytearray) -> int:
    """Return an offset, in the header rather than in the pixels."""
    return rng.randrange(min(len(data), rng.choice((600, 4000, len(data)))))


def _element(rng: random.Random, data: bytearray) -> int:
    start = _place(rng, data)
    found = data.find(rng.choice((b"\x28\x00", b"\x08\x00", b"\x20\x00", b"\xe0\x7f", b"\x00\x52", b"\xfe\xff")), start)
    return found if found >= 0 else start


def outcome(data: bytes, *, every_class: bool, pixels: bool = True) -> str:
    """Return how a file ends; with ``every_class``, also files of classes that make no volume are decoded."""
    read.kind_of = _decodable if every_class else kind_of
    try:
        found = read.read_header(InMemory(data))
        if found.reason is Reason.SEGMENTATION and pixels:
            read_segmentation(InMemory(data)).on(grid())
            return "drawn"
        if found.header is None:
            return f"header: {Reason(found.reason or '')}"
        if not pixels:
            return "read"
        for _ in decode_frames(InMemory(data), found.header, found.header.frames):
            pass
    except DicomProblem as problem:
        return f"pixels: {problem.reason}"
    except Exception as error:  # just what must not happen
        return f"raised {type(error).__name__}: {error}"
    return "decoded"


def _decodable(sop_class: str) -> Kind | Reason:
    kind = kind_of(sop_class)
    return kind if isinstance(kind, Kind) else Kind.CINE


def _file(index: int, seed: int) -> bytes:
    return mutated(random.Random(f"{seed} {index}"), corpus())


def work(start: int, stop: int, seed: int) -> None:
    """Try the files ``start`` to ``stop``, a line each."""
    corpus()  # before memory is limited
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    with quiet() as caught:
        for index in range(start, stop):
            faulthandler.dump_traceback_later(SECONDS_A_FILE, exit=True)
            print(index, outcome(_file(index, seed), every_class=index % 2 == 0))
            sys.stdout.flush()
            caught.clear()


def watched(start: int, stop: int, seed: int) -> Iterator[tuple[int, str]]:
    """Yield the index and outcome of each file; one that kills its process costs a new process."""
    while start < stop:
        command = [sys.executable, __file__, "--work", str(start), str(stop), "--seed", str(seed)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            for line in process.stdout or ():
                number, _, ended = line.strip().partition(" ")
                start = int(number) + 1
                yield start - 1, ended
        if process.returncode == BROKEN:
            raise RuntimeError("the harness itself fails: run it with --work")
        if start < stop:
            is_hung, decodes = process.returncode == 1, outcome(_file(start, seed), every_class=True, pixels=False)
            yield start, "hung" if is_hung else "pixels: decoder_died" if decodes == "read" else "died"
            start += 1


def main() -> int:
    """Run the harness; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--work", type=int, nargs=2)
    chosen = parser.parse_args()
    if chosen.work:
        try:
            work(*chosen.work, chosen.seed)
        except Exception:
            traceback.print_exc()
            return BROKEN
        return 0
    bounds = [chosen.files * i // chosen.workers for i in range(chosen.workers + 1)]
    with ThreadPoolExecutor(chosen.workers) as pool:
        parts = pool.map(lambda a, b: list(watched(a, b, chosen.seed)), bounds[:-1], bounds[1:])
        ended = [one for part in parts for one in part]
    failed = [(index, how) for index, how in ended if how.startswith(FAILED)]
    for how, num in Counter(how for _, how in ended if not how.startswith(FAILED)).most_common():
        print(f"{num:8} {how}")
    for index, how in failed:
        print(f"file {index}: {how}")
    print(f"{len(ended)} files, {len(failed)} failed")
    return 1 if failed or len(ended) != chosen.files else 0


if __name__ == "__main__":
    sys.exit(main())
