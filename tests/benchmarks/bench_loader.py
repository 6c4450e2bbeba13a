"""How fast batches come: medssl's feed beside MONAI's and torchvision's best settings, in one run, interleaved.

    python tests/benchmarks/bench_loader.py            # 3D crops, then 2D radiographs; about a quarter of an hour
    python tests/benchmarks/bench_loader.py --only 3d --rounds 1 --seconds 3

3D: random 96^3 crops from four synthetic chest CTs (512 x 512 x 240 … 320, int16, smooth anatomy and noise), windowed
to [0, 1]; everybody ends at a float32 batch. 2D: 224 px radiographs as JPEG (MEDSSL_SHARED) or prepared shards. Each
candidate runs in a process of its own; memory is the most that it and its workers held of their own (anonymous and
shared memory, from smaps_rollup); mapped files, which the kernel can drop, are shown apart. The rate a CPU second, over
workers too, is what to compare on a machine that others use as well.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import polars as pl
import torch
from torch.utils.data import DataLoader

from medssl.core.types import Role
from medssl.data.loader import TrainingFeed
from medssl.data.prepare import PrepareConfig, prepare
from medssl.data.prepared import Prepared
from medssl.data.sampler import Sampler
from medssl.data.views import View, ViewRecipe
from medssl.pool.catalog import INSTANCES, VOLUMES
from medssl.pool.key import Key
from medssl.pool.pool import Pool
from medssl.pool.shards import ShardWriter

Batches = Iterator[torch.Tensor]
CPU, KEY = torch.device("cpu"), Key(b"b" * 32)
CROP, CROPS, DEPTHS = (96, 96, 96), 8, (240, 280, 300, 320)
BATCH, PART = 128, (192, 192)
SLICED = View(size=PART, crop_scale=((PART[0] / 224) ** 2,) * 2, flip=0.5)
RESIZED = View(crop_scale=(0.2, 1.0), flip=0.5)


def write_pool(path: Path, images: Iterator[np.ndarray], **common: Any) -> Pool:
    """Write a pool of one volume a patient, one shard each 500."""
    pool = Pool.create(path, KEY)
    rows: list[dict[str, Any]] = []
    instances = []
    for index, voxels in enumerate(images):
        ids = {level: KEY.hmac(level, str(index)) for level in ("volume", "study", "series", "patient")}
        row = dict.fromkeys(VOLUMES) | ids | common
        row |= {"role": str(Role.DEV), "shape": list(voxels.shape), "dtype": str(voxels.dtype), "flags": []}
        with ShardWriter(pool.shards, index, "zstd") as shard:
            rows.append(row | asdict(shard.add(ids["volume"], voxels)))
        instances.append({"source_key": KEY.hmac("file", str(index)), "outcome": "stored", "volume": ids["volume"]})
    pool.append(pl.DataFrame(rows, schema=VOLUMES), pl.DataFrame(instances, schema=INSTANCES))
    return pool


def chest_cts() -> Iterator[np.ndarray]:
    """Yield int16 volumes in HU: smooth anatomy of 12 mm and noise of 20 HU."""
    for seed, depth in enumerate(DEPTHS):
        rng = np.random.default_rng(seed)
        coarse = torch.from_numpy(rng.normal(-200, 400, (1, 1, depth // 12, 32, 32)).astype(np.float32))
        smooth = torch.nn.functional.interpolate(coarse, size=(depth, 512, 512), mode="trilinear")[0, 0].numpy()
        smooth += rng.standard_normal(smooth.shape, dtype=np.float32) * 20
        yield smooth.clip(-1024, 3071).astype(np.int16)


def make_data(folder: Path, only: str | None, num_images: int) -> None:
    """Write pools, prepared shards and the peers' files below ``folder``."""
    if only != "2d":
        for index, voxels in enumerate(chest_cts()):
            np.save(folder / f"ct{index}.npy", voxels)
        common = {"modality": "CT", "axes": "ZYX", "units": "HU", "slope": 1.0, "intercept": 0.0}
        common |= {"spacing_mm": [1.0, 0.7, 0.7], "affine": np.diag([0.7, 0.7, 1.0, 1.0]).ravel().tolist()}
        write_pool(folder / "ct", (np.load(folder / f"ct{i}.npy") for i in range(len(DEPTHS))), **common)
        for codec in ("none", "lz4"):
            prepared(folder, "ct", codec)
    if only != "3d":
        from PIL import Image

        shared = Path(os.environ.get("MEDSSL_SHARED", Path(__file__).parents[3] / "shared"))
        with tarfile.open(shared / "data/chest_xray_224/images.tar") as tar:
            members = [m for m in tar.getmembers() if m.name.endswith(("jpg", "jpeg"))][:num_images]
            (folder / "jpeg").mkdir()
            for index, member in enumerate(members):
                (folder / "jpeg" / f"{index:05d}.jpeg").write_bytes(tar.extractfile(member).read())  # type: ignore[union-attr]
        found = (np.asarray(Image.open(f).convert("L")) for f in sorted((folder / "jpeg").iterdir()))
        common = {"modality": "DX", "axes": "YX", "units": "stored", "slope": 1.0, "intercept": 0.0}
        write_pool(folder / "xr", found, spacing_mm=[1.0, 1.0], **common)
        for codec in ("none", "lz4"):
            prepared(folder, "xr", codec)


def prepared(folder: Path, name: str, codec: str) -> Prepared:
    shape = {"ct": {"shape": CROP, "fit": "crop"}, "xr": {"shape": (224, 224)}}[name]
    return prepare(Pool.open(folder / name), PrepareConfig.model_validate({**shape, "codec": codec}))


def ours(name: str, codec: str, view: View, batch: int, crops: int = 1, workers: int = 0) -> Callable[[Path], Batches]:
    def batches(folder: Path) -> Batches:
        data = prepared(folder, name, codec)
        feed = TrainingFeed(data, ViewRecipe((view,)), Sampler.of(data, batch, 1, 0, crops), workers)
        for (block,) in feed.steps(0, 10**6):
            yield block.views(CPU).images[0]

    return batches


def monai_crops(dataset: str, dtype: str, workers: int) -> Callable[[Path], Batches]:
    def batches(folder: Path) -> Batches:
        from monai.data import CacheDataset, Dataset, PersistentDataset, list_data_collate
        from monai.transforms import (
            CastToType,
            Compose,
            LoadImage,
            RandSpatialCropSamples,
            ScaleIntensityRange,
            ToTensor,
        )

        chain = Compose(
            [
                LoadImage(reader="NumpyReader", image_only=True, ensure_channel_first=True, dtype=np.int16),
                ScaleIntensityRange(-1000, 1000, 0, 1, clip=True),
                CastToType(np.dtype(dtype).type),
                ToTensor(track_meta=False),
                RandSpatialCropSamples(CROP, num_samples=CROPS, random_size=False),
                CastToType(torch.float32),
            ]
        )
        files = sorted(map(str, folder.glob("ct*.npy")))
        source: Any = {
            "cache": lambda: CacheDataset(files, chain, copy_cache=False, progress=False),
            "persistent": lambda: PersistentDataset(files, chain, folder / f"persistent-{dtype}"),
            "plain": lambda: Dataset(files, chain),
        }[dataset]()
        return endless(source, 1, workers, list_data_collate)

    return batches


def jpegs(library: str, workers: int, *, resized: bool) -> Callable[[Path], Batches]:
    def batches(folder: Path) -> Batches:
        files = sorted(map(str, (folder / "jpeg").iterdir()))
        load = monai_jpeg(resized) if library == "monai" else torchvision_jpeg(library, resized)
        from monai.data import Dataset

        return endless(Dataset(files, load), BATCH, workers, None)

    return batches


def monai_jpeg(resized: bool) -> Any:
    from monai import transforms as m

    crop: list[Any] = [m.RandSpatialCrop(PART, random_size=False)]
    if resized:
        crop = [m.RandSpatialCrop((100, 100), max_roi_size=(224, 224)), m.Resize((224, 224), mode="bilinear")]
    grey = m.LoadImage("PILReader", converter=lambda i: i.convert("L"), image_only=True, ensure_channel_first=True)
    flip = [m.RandFlip(0.5, 1), m.ToTensor(track_meta=False)]
    return m.Compose([grey, m.ScaleIntensityRange(0, 255, 0, 1), *crop, *flip])


def torchvision_jpeg(reader: str, resized: bool) -> Any:
    from PIL import Image
    from torchvision.io import ImageReadMode, decode_image
    from torchvision.transforms import v2

    def load(file: str) -> Any:
        return decode_image(file, ImageReadMode.GRAY) if reader == "torchvision" else Image.open(file).convert("L")

    crop = v2.RandomResizedCrop(224, (0.2, 1.0)) if resized else v2.RandomCrop(PART)
    to_float = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    return v2.Compose([load, crop, v2.RandomHorizontalFlip(), *to_float])


def endless(source: Any, batch: int, workers: int, collate: Any) -> Batches:
    loader = DataLoader(
        source, batch, shuffle=True, num_workers=workers, persistent_workers=workers > 0, collate_fn=collate
    )
    while True:
        for found in loader:
            yield torch.as_tensor(found)


STILL = View()
CANDIDATES: dict[str, dict[str, Callable[[Path], Batches]]] = {
    "3d": {
        **{
            f"medssl, {codec}, {crops} crops a block, {workers} workers": ours("ct", codec, STILL, 8, crops, workers)
            for codec in ("none", "lz4")
            for crops in (8, 1)
            for workers in (0, 2)
        },
        **{
            f"MONAI {dataset}, {dtype}, 8 crops a volume, {workers} workers": monai_crops(dataset, dtype, workers)
            for dataset, dtype in (("cache", "float32"), ("cache", "float16"), ("persistent", "float16"))
            for workers in (0, 2)
        },
        "MONAI plain, float32, 8 crops a volume, 0 workers": monai_crops("plain", "float32", 0),
    },
    "2d": {
        f"{name}, {way}, {workers} workers": make(view, workers)
        for way, view in (("crop + flip", SLICED), ("resized crop + flip", RESIZED))
        for name, make in {
            "medssl, none": lambda view, workers: ours("xr", "none", view, BATCH, 1, workers),
            "medssl, lz4": lambda view, workers: ours("xr", "lz4", view, BATCH, 1, workers),
            "MONAI JPEG": lambda view, workers: jpegs("monai", workers, resized=view is RESIZED),
            "torchvision JPEG (PIL)": lambda view, workers: jpegs("pil", workers, resized=view is RESIZED),
            "torchvision JPEG": lambda view, workers: jpegs("torchvision", workers, resized=view is RESIZED),
        }.items()
        for workers in ((0, 2) if view is SLICED else (0,))
    },
}


def run(candidate: str, kind: str, folder: Path, seconds: float) -> None:
    """Measure one candidate in this process and print its figures as JSON."""
    watch = Memory()
    batches = CANDIDATES[kind][candidate](folder)
    images = 0
    warm = time.perf_counter() + seconds / 2
    while images < 4 * (CROPS if kind == "3d" else BATCH) or time.perf_counter() < warm:  # every checksum, every cache
        images += len(next(batches))
    images, start, worked = 0, time.perf_counter(), cpu_seconds()
    while time.perf_counter() - start < seconds:
        found = next(batches)
        assert found.dtype == torch.float32
        images += len(found)
    rate, per_cpu = images / (time.perf_counter() - start), images / (cpu_seconds() - worked)
    memory = {"private": watch.private / 2**20, "mapped": watch.mapped / 2**20}
    print(json.dumps({"rate": rate, "per_cpu": per_cpu, **memory}))


def cpu_seconds() -> float:
    """Return the processor time that this process and its descendants took so far."""
    ticks = 0
    for pid in [os.getpid(), *descendants(os.getpid())]:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


class Memory(threading.Thread):
    """The most this process and its descendants held, looked at once a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.private = self.mapped = 0
        self.start()

    def run(self) -> None:
        """Look until the process ends."""
        while True:
            held = [rollup(pid) for pid in [os.getpid(), *descendants(os.getpid())]]
            self.private = max(self.private, sum(own for own, _ in held))
            self.mapped = max(self.mapped, sum(file for _, file in held))
            time.sleep(1.0)  # looking costs time, too


def rollup(pid: int) -> tuple[int, int]:
    """Return proportional anonymous and shared bytes, and mapped file bytes, of a process."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0, 0
    size = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines[1:]}
    return size["Pss_Anon"] + size["Pss_Shmem"], size["Pss_File"]


def descendants(pid: int) -> list[int]:
    """Return the processes below ``pid``."""
    try:
        children = [int(p) for t in Path(f"/proc/{pid}/task").iterdir() for p in (t / "children").read_text().split()]
    except OSError:
        return []
    return children + [below for child in children for below in descendants(child)]


def main() -> None:
    """Measure every candidate in turn, several times, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["3d", "2d"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--images", type=int, default=1500, help="radiographs")
    parser.add_argument("--match", nargs="+", default=[""], help="only candidates whose name contains one of these")
    parser.add_argument("--folder", type=Path, help="keep the data here, and use what is there")
    parser.add_argument("--candidate", help=argparse.SUPPRESS)
    parser.add_argument("--kind", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.candidate:
        run(args.candidate, args.kind, args.folder, args.seconds)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.folder or Path(scratch)
        if not any(folder.glob("*")):
            folder.mkdir(parents=True, exist_ok=True)
            make_data(folder, args.only, args.images)
        print(f"`python {' '.join(sys.argv)}` on {os.cpu_count()} × {processor()}, {versions()}\n")
        for kind in [args.only] if args.only else ["3d", "2d"]:
            table(kind, folder, args)


def table(kind: str, folder: Path, args: argparse.Namespace) -> None:
    """Print one markdown table."""
    names = [name for name in CANDIDATES[kind] if any(part in name for part in args.match)]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(args.rounds):
        for name in names:
            command = [sys.executable, __file__, "--candidate", name, "--kind", kind, "--folder", str(folder)]
            done = subprocess.run([*command, "--seconds", str(args.seconds)], capture_output=True, text=True)
            if done.returncode:
                print(f"{name} failed: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
                continue
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
    unit = "crops" if kind == "3d" else "images"
    print(f"| {kind}: {unit} | a second (lowest – highest) | a CPU second | memory MiB | mapped MiB |")
    print("|---|---|---|---|---|")
    for name, runs in found.items():
        if runs:
            rates = [r["rate"] for r in runs]
            private, mapped = (max(r[key] for r in runs) for key in ("private", "mapped"))
            spread = f"{median(rates):.0f} ({min(rates):.0f} – {max(rates):.0f})"
            per_cpu = median(r["per_cpu"] for r in runs)
            print(f"| {name} | {spread} | {per_cpu:.0f} | {private:.0f} | {mapped:.0f} |")
    print(flush=True)


def processor() -> str:
    """Return the name of this machine's processor."""
    lines = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return lines[0].split(": ")[1] if lines else platform.processor()


def versions() -> str:
    """Return the versions that matter."""
    from importlib.metadata import version

    return ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "monai", "blosc2", "pillow"))


if __name__ == "__main__":
    main()
