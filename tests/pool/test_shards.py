"""Shards: lossless, deterministic, read in place, and never silently wrong."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from medssl.core.errors import CorruptShard, PoolError
from medssl.pool.shards import CODECS, Codec, Member, ShardWriter, VolumeReader, partition

DTYPES = ["?", "i1", "u1", "<i2", ">i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", ">f4", "<f8", "<c8", "<c16"]
NAME = "0123456789abcdef"
FORKING = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def write(folder: Path, arrays: list[NDArray[Any]], codec: Codec = "zstd") -> VolumeReader:
    with ShardWriter(folder, 0, codec) as shard:
        members = [shard.add(f"{i:016x}", array) for i, array in enumerate(arrays)]
    return VolumeReader(folder, rows(members))


def rows(members: list[Member]) -> pl.DataFrame:
    names = [f"{i:016x}" for i in range(len(members))]
    return pl.DataFrame([vars(member) for member in members]).with_columns(pl.Series("volume", names))


def ct(seed: int = 0, shape: tuple[int, ...] = (20, 70, 65)) -> NDArray[np.int16]:
    return np.random.default_rng(seed).normal(0, 30, shape).astype(np.int16)


@st.composite
def arrays_and_boxes(draw: st.DrawFn) -> tuple[NDArray[Any], tuple[slice, ...]]:
    shape = draw(
        hnp.array_shapes(min_dims=1, max_dims=5, max_side=9) | hnp.array_shapes(min_dims=2, max_dims=3, max_side=80)
    )
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    seed = draw(st.integers(0, 2**32 - 1))
    bits = np.random.default_rng(seed).bytes(int(np.prod(shape)) * dtype.itemsize)
    if dtype == np.bool_:
        array: NDArray[Any] = (np.frombuffer(bits, np.uint8) > 127).reshape(shape)
    else:
        array = np.frombuffer(bits, dtype).reshape(shape)
    ends = [sorted(draw(st.tuples(st.integers(0, size - 1), st.integers(1, size)))) for size in shape]
    return array, tuple(slice(low, max(high, low + 1)) for low, high in ends[: draw(st.integers(1, len(shape)))])


@settings(max_examples=150, deadline=None)
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


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=4))
def test_blocks_and_chunks_waste_little(shape: list[int]) -> None:
    blocks, chunks = partition(tuple(shape))
    for size, block, chunk in zip(shape, blocks, chunks, strict=True):
        assert chunk % block == 0
        assert block <= size
        assert -(-size // chunk) * chunk - size < max(block, 0.35 * size + 1)


def test_blocks_fit_volumes_images_time_and_colour() -> None:
    blocks, chunks = partition((160, 512, 512))
    assert (blocks, chunks) == ((8, 32, 32), (32, 128, 128))
    assert partition((224, 224)) == ((112, 112), (224, 224))
    assert partition((3, 224, 224)) == ((3, 112, 112), (3, 224, 224))
    assert partition((30, 20, 64, 64)) == ((1, 7, 32, 32), (1, 21, 64, 64))  # time is cut singly
    assert partition((480, 640, 3)) == ((120, 128, 3), (480, 640, 3))  # colours stay together


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


@settings(max_examples=60, deadline=None)
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
    with pytest.raises(CorruptShard, match=r"volume 0000000000000000: its shard 00000\.tar is missing"):
        reader.read(0)


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
            "shard": reader._shards,
            "offset": reader._offsets,
            "length": reader._lengths,
            "sha256": [digest.tobytes().hex() for digest in reader._digests],
        }
    )


@FORKING
@pytest.mark.parametrize("start", ["spawn", "forkserver", "fork"])
def test_a_reader_travels_to_other_processes(tmp_path: Path, start: str) -> None:
    reader = write(tmp_path, [ct(0), ct(1), ct(2)])
    reader.read(0)
    with multiprocessing.get_context(start).Pool(2) as workers:
        found = workers.map(reader.read, range(3))
    assert all(np.array_equal(array, ct(i)) for i, array in enumerate(found))


def test_a_reader_of_many_volumes_is_small_and_holds_only_arrays() -> None:
    num = 100_000
    members = pl.DataFrame({"volume": [f"{i:032x}" for i in range(num)], "sha256": ["ab" * 32] * num})
    members = members.with_columns(pl.lit(0).alias(name) for name in ("shard", "offset", "length"))
    reader = VolumeReader(Path("shards"), members)
    assert len(pickle.dumps(reader)) < 100 * num
    assert {type(value) for value in vars(reader).values()} <= {np.ndarray, type(Path()), int}


def test_an_empty_table_gives_an_empty_reader() -> None:
    columns = {"volume": pl.String, "shard": pl.Int32, "offset": pl.Int64, "length": pl.Int64, "sha256": pl.String}
    assert len(VolumeReader(Path("shards"), pl.DataFrame(schema=columns))) == 0
