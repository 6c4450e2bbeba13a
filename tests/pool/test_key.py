"""The key: created once, never shown, its hashes unambiguous."""

from __future__ import annotations

import multiprocessing
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medssl.core.errors import PoolError
from medssl.pool.key import Key

WORDS = st.lists(st.text(max_size=6), max_size=4)


def key(text: str = "a") -> Key:
    return Key((text * 64).encode())


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config" / "medssl" / "key"


def test_the_first_load_creates_a_private_key_and_says_so(config: Path) -> None:
    first, second = Key.load(), Key.load()
    assert (first.created, second.created) == (True, False)
    assert first == second
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    assert len(bytes.fromhex(config.read_text())) == 32
    assert list(config.parent.iterdir()) == [config]


def test_without_a_config_folder_the_key_lies_in_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", "")
    assert Key.load().created
    assert (tmp_path / ".config/medssl/key").is_file()


def test_processes_that_create_a_key_at_once_agree_on_one(tmp_path: Path) -> None:
    with multiprocessing.get_context("forkserver").Pool(4) as workers:
        made = workers.map(Key.create, [tmp_path / "key"] * 64, chunksize=1)
    assert len(set(made)) == 1
    assert sum(key.created for key in made) == 1


def test_a_named_key_must_exist_and_is_never_created(tmp_path: Path) -> None:
    with pytest.raises(PoolError, match="cannot read the key"):
        Key.load(tmp_path / "typo")
    assert not (tmp_path / "typo").exists()


@pytest.mark.parametrize("text", ["", "\n", "brevis"])
def test_an_empty_or_short_key_file_is_refused_without_showing_it(tmp_path: Path, text: str) -> None:
    (tmp_path / "key").write_text(text)
    with pytest.raises(PoolError, match="expected 32 or more") as error:
        Key.load(tmp_path / "key")
    assert "brevis" not in str(error.value)


def test_the_secret_is_not_in_the_repr_nor_in_the_fingerprint() -> None:
    assert "aaa" not in repr(key()) + key().fingerprint
    assert key("a").fingerprint != key("b").fingerprint


@given(WORDS, WORDS)
def test_equal_hashes_mean_equal_words(one: list[str], other: list[str]) -> None:
    assert (key().hmac(*one) == key().hmac(*other)) == (one == other)


def test_words_cannot_be_joined_in_two_ways() -> None:
    joined = [("ab", "c"), ("a", "bc"), ("abc",), ("abc", ""), ("", "abc"), ("a\x1fbc",)]
    assert len({key().hmac(*words) for words in joined}) == len(joined)


def test_hashes_are_stable_across_releases() -> None:
    assert key().hmac("patient", "issuer", "1") == "2025bd9eee25e6d4e60d50c355ec4299"
    assert key().uniform("role", "x") == pytest.approx(0.7251281370800119, abs=1e-15)


@given(st.text())
def test_uniform_numbers_lie_in_the_unit_interval_and_depend_on_the_key(word: str) -> None:
    assert 0 <= key().uniform(word) < 1
    assert key().uniform(word) == key().uniform(word) != key("b").uniform(word)


def test_uniform_numbers_are_uniform() -> None:
    draws = sorted(key().uniform("role", str(i)) for i in range(5000))
    largest_gap = max(abs(draw - (i + 0.5) / 5000) for i, draw in enumerate(draws))
    assert largest_gap < 0.027  # Kolmogorov-Smirnov at 0.1 %: 1.95 / sqrt(5000)
