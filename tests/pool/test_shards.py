"""Shards: lossless, deterministic, read in place, and never silently wrong."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
import tarfile
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from stored_arrays import arrays_and_boxes, ct

from medssl.core.errors import CorruptShard, PoolError
from medssl.pool.catalog import VOLUMES
from medssl.pool.frames import CODECS, Codec
from medssl.pool.reader import VolumeReader
from medssl.pool.shards import Member, ShardWriter

NAME = "0123456789abcdef"
FORKING = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def write(folder: Path, arrays: list[NDArray[Any]], codec: Codec = "zstd") -> VolumeReader:
    with ShardWriter(folder, 0, codec) as shard:
        members = [shard.add(f"{i:016x}", array) for i, array in enumerate(arrays)]
    return VolumeReader(folder, rows(members, arrays))


def rows(members: list[Member], arrays: list[NDArray[Any]]) -> pl.DataFrame:
    found = zip(members, arrays, strict=True)
    return pl.DataFrame(
        [vars(m) | {"volume": f"{i:016x}", "dtype": str(a.dtype), "shape": a.shape} for i, (m, a) in enumerate(found)]
    )


@settings(max_examples=150)
@given(arrays_and_boxes(), st.sampled_from(sorted(CODECS)))
def test_any_array_comes_back_bit_by_bit_whole_and_in_boxes(
    drawn: tuple[NDArray[Any], tuple[slice, ...]], codec: Codec
) -> None:
    array, box = drawn
    with tempfile.TemporaryDirectory() as folder:
        reader = write(Path(folder), [array], codec)
        whole, part = reader.read(0), reader.read(0, box)
    little = array.astype(array.dtype.newbyteorder("<"))
    assert whole.dtype == little.dtype
    assert whole.shape == array.shape
    assert whole.tobytes() == little.tobytes()  # equality of bits: NaN payloads and signed zeros too
    assert part.tobytes() == little[box].tobytes()
    assert part.shape == little[box].shape
    assert part.flags.writeable


@pytest.mark.parametrize("value", [0, -0.0, np.nan, 7.5])
def test_a_constant_array_keeps_its_bits(tmp_path: Path, value: float) -> None:
    array = np.full((40, 50), value, np.float32)
    assert write(tmp_path, [array]).read(0).tobytes() == array.tobytes()


def test_a_view_that_is_not_contiguous_is_stored_as_it_looks(tmp_path: Path) -> None:
    array = ct()[::2, ::-1, 3:].transpose(2, 0, 1)
    assert np.array_equal(write(tmp_path, [array]).read(0), array)


@pytest.mark.parametrize("codec", sorted(CODECS))
def test_the_same_input_gives_the_same_bytes_in_any_environment(tmp_path: Path, codec: Codec) -> None:
    script = (
        "import numpy as np, sys; from pathlib import Path; from medssl.pool.shards import ShardWriter\n"
        "with ShardWriter(Path(sys.argv[1]), 0, sys.argv[2]) as s:\n"
        "    [s.add(f'{i:016x}', np.random.default_rng(i).normal(0, 30, (40, 200, 200)).astype('i2')) for i in (0, 1)]"
    )
    found = set()
    overruling = {
        "BLOSC_NTHREADS": "4",
        "BLOSC_CLEVEL": "9",
        "BLOSC_COMPRESSOR": "blosclz",
        "BLOSC_SHUFFLE": "NOSHUFFLE",
    }
    for run, variables in enumerate([{}, {"OMP_NUM_THREADS": "7"}, overruling]):
        env = {**os.environ, **variables}
        subprocess.run([sys.executable, "-c", script, tmp_path / str(run), codec], check=True, env=env)
        found.add((tmp_path / str(run) / "00000.tar").read_bytes())
    assert len(found) == 1


@pytest.mark.parametrize("codec", sorted(CODECS))
def test_many_volumes_are_gathered_into_one_array(tmp_path: Path, codec: Codec) -> None:
    arrays = [ct(i, (9, 20, 21)) for i in range(5)]
    reader = write(tmp_path, arrays, codec)
    order = np.array([4, 0, 0, 2])
    assert np.array_equal(reader.read_many(order), np.stack([arrays[i] for i in order]))
    boxes = [(slice(a, a + 5), slice(3, None)) for a in range(4)]
    wanted = np.stack([arrays[i][box] for i, box in zip(order, boxes, strict=True)])
    assert np.array_equal(reader.read_many(order, boxes), wanted)
    out = np.empty_like(wanted)
    assert reader.read_many(order, boxes, out) is out
    assert np.array_equal(out, wanted)


def test_volumes_of_different_shapes_are_not_gathered(tmp_path: Path) -> None:
    reader = write(tmp_path, [ct(0, (9, 20, 21)), ct(1, (9, 20, 22))], "none")
    with pytest.raises(PoolError, match=r"cannot stack int16 \(9, 20, 22\) into int16 \(9, 20, 21\)"):
        reader.read_many([0, 1])
    with pytest.raises(PoolError, match="cannot stack"):
        reader.read_many([0], out=np.empty((1, 9, 20, 21), np.float32))


def test_several_threads_may_gather_from_one_reader(tmp_path: Path) -> None:
    arrays = [ct(i, (9, 60, 61)) for i in range(40)]
    reader = write(tmp_path, arrays, "none")
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda row: reader.read_many([row])[0], range(40)))
    assert all(map(np.array_equal, found, arrays))


def test_a_shard_that_is_cut_in_use_is_noticed(tmp_path: Path) -> None:
    reader = write(tmp_path, [ct()], "none")
    reader.read_many([0])
    os.truncate(tmp_path / "00000.tar", 2000)
    with pytest.raises(CorruptShard, match="volume 0000000000000000: its shard was cut"):
        reader.read_many([0])


def test_reading_on_opens_no_more_files_than_it_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medssl.pool.reader.MAX_SHARDS", 3)
    monkeypatch.setattr("medssl.pool.reader.MAX_FRAMES", 2)
    members = []
    for number in range(9):
        with ShardWriter(tmp_path, number, "lz4" if number % 2 else "none") as shard:
            members.append(shard.add(NAME, ct(number)))
    reader = VolumeReader(tmp_path, rows(members, [ct()] * 9))
    for _ in range(2):
        assert all(np.array_equal(reader.read(i), ct(i)) for i in range(9))
    links = [Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd")]
    held = [str(link.readlink()) for link in links if link.is_symlink()]
    assert 0 < sum(name.startswith(str(tmp_path)) for name in held) <= 3 * 2 + 2  # a map holds a descriptor of its own


def test_tar_programs_list_the_members_and_blosc2_opens_them_in_place(tmp_path: Path) -> None:
    arrays = [ct(0), ct(1)[0]]
    with ShardWriter(tmp_path, 3, "zstd") as shard:
        members = [shard.add(name, array) for name, array in zip(("a" * 16, "b" * 16), arrays, strict=True)]
    listed = subprocess.run(["tar", "tf", tmp_path / "00003.tar"], capture_output=True, text=True, check=True).stdout
    assert listed.split() == ["a" * 16 + ".b2nd", "b" * 16 + ".b2nd"]
    with tarfile.open(tmp_path / "00003.tar") as tar:
        assert [(m.offset_data, m.size, m.mtime, m.uid) for m in tar] == [(m.offset, m.length, 0, 0) for m in members]
    for member, array in zip(members, arrays, strict=True):
        stored = blosc2.open(str(tmp_path / "00003.tar"), mode="r", offset=member.offset, mmap_mode="r")
        assert np.array_equal(stored[:], array)


@pytest.mark.parametrize("shape", [(0,), (0, 5), (3, 0, 4), ()])
def test_an_array_without_voxels_is_refused_in_one_line(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(PoolError, match="at least one voxel"), ShardWriter(tmp_path, 0, "zstd") as shard:
        shard.add(NAME, np.zeros(shape))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", ["O", "U3", "M8[s]", "g"])
def test_values_that_are_no_voxels_are_refused(tmp_path: Path, dtype: str) -> None:
    with pytest.raises(PoolError, match="voxels of type"), ShardWriter(tmp_path, 0, "zstd") as shard:
        shard.add(NAME, np.zeros((2, 2), dtype))


def test_an_interrupted_writer_leaves_nothing_and_keeps_the_shard_that_was_there(tmp_path: Path) -> None:
    reader = write(tmp_path, [ct(0)])
    with pytest.raises(PoolError), ShardWriter(tmp_path, 0, "zstd") as shard:
        [shard.add(NAME, array) for array in (ct(1), np.zeros(0))]
    assert [path.name for path in tmp_path.iterdir()] == ["00000.tar"]
    assert np.array_equal(reader.read(0), ct(0))


def test_a_shard_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, 0, "zstd") as shard:
        shard.add(NAME, ct())
        assert not (tmp_path / "00000.tar").exists()
    assert (tmp_path / "00000.tar").exists()


@settings(max_examples=60)
@given(st.data())
def test_any_flipped_bit_of_a_member_is_refused_by_name(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        reader = write(Path(folder), [ct(0, (3, 9, 9)), ct(1, (3, 9, 9))])
        offset, length = int(reader._offsets[1]), int(reader._lengths[1])
        flip(Path(folder) / "00000.tar", offset + data.draw(st.integers(0, length - 1)), data.draw(st.integers(0, 7)))
        with pytest.raises(CorruptShard, match=r"volume 0000000000000001: .* 00000\.tar"):
            reader.read(1, (slice(0, 1),))
        assert np.array_equal(reader.read(0), ct(0, (3, 9, 9)))


def flip(path: Path, position: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)


def test_a_cut_or_missing_shard_is_refused_by_name(tmp_path: Path) -> None:
    reader = write(tmp_path, [ct()])
    path = tmp_path / "00000.tar"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(CorruptShard, match="volume 0000000000000000"):
        reader.read(0)
    path.unlink()
    with pytest.raises(CorruptShard, match="volume 0000000000000000"):
        reader.read(0)  # of the file that it holds open
    with pytest.raises(CorruptShard, match=r"volume 0000000000000000: its shard 00000\.tar is missing"):
        pickle.loads(pickle.dumps(reader)).read(0)


@FORKING
def test_the_checksum_is_looked_at_once_a_process(tmp_path: Path) -> None:
    reader = write(tmp_path, [ct()])
    first = reader.read(0)
    offset = int(reader._offsets[0])
    flip(tmp_path / "00000.tar", offset + int(reader._lengths[0]) - 1)  # of the trailer: harmless to what was read
    assert np.array_equal(reader.read(0), first)
    with multiprocessing.get_context("fork").Pool(1) as workers, pytest.raises(CorruptShard):
        workers.apply(reader.read, (0,))
    with pytest.raises(CorruptShard):
        VolumeReader(tmp_path, reader_rows(reader)).read(0)


def reader_rows(reader: VolumeReader) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "volume": [name.decode() for name in reader._ids],
            "dtype": [str(reader._layouts[kind][0]) for kind in reader._kinds],
            "shape": [reader._layouts[kind][1] for kind in reader._kinds],
            "shard": reader._shards,
            "offset": reader._offsets,
            "length": reader._lengths,
            "sha256": [digest.tobytes().hex() for digest in reader._digests],
        }
    )


@FORKING
@pytest.mark.parametrize(
    ("start", "codec"), [("spawn", "none"), ("forkserver", "zstd"), ("fork", "lz4"), ("fork", "none")]
)
def test_a_reader_travels_to_other_processes(tmp_path: Path, start: str, codec: Codec) -> None:
    reader = write(tmp_path, [ct(0), ct(1), ct(2)], codec)
    reader.read(0)
    with multiprocessing.get_context(start).Pool(2) as workers:
        found = workers.map(reader.read, range(3))
    assert all(np.array_equal(array, ct(i)) for i, array in enumerate(found))


def test_a_reader_of_many_volumes_is_small_and_holds_only_arrays() -> None:
    num = 100_000
    members = pl.DataFrame({"volume": [f"{i:032x}" for i in range(num)], "sha256": ["ab" * 32] * num})
    members = members.with_columns(pl.lit(0).alias(name) for name in ("shard", "offset", "length"))
    members = members.with_columns(pl.lit("int16").alias("dtype"), pl.Series("shape", [[1, 224, 224]] * num))
    reader = VolumeReader(Path("shards"), members)
    assert len(pickle.dumps(reader)) < 100 * num
    assert {type(value) for value in vars(reader).values()} <= {np.ndarray, type(Path()), list, type(None)}


def test_an_empty_table_gives_an_empty_reader() -> None:
    columns = {name: VOLUMES[name] for name in ("volume", "dtype", "shape", "shard", "offset", "length", "sha256")}
    assert len(VolumeReader(Path("shards"), pl.DataFrame(schema=columns))) == 0
