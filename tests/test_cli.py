"""The command line: final names, help with examples, JSON, exit codes, and bad input as one line."""

import json
import re
import sys
from pathlib import Path

import pytest
from small_pool import KEY, make_pool

from medssl.cli import app, main

VERBS = [
    "ingest", "plan", "pretrain", "evaluate", "embed", "select-for-labeling", "import-labels", "finetune", "predict",
    "review", "demo", "methods", "strategies", "encoders", "doctor", "pool info", "pool verify", "pool pull",
    "pool remove", "pool export-nifti",
]  # fmt: skip


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run a command line in this process: exit code, stdout, stderr."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["medssl", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return call


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    (tmp_path / "key").write_bytes(KEY.secret)
    return tmp_path / "key"


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb_ends_with_an_example_that_is_one_of_it(run, verb: str) -> None:
    code, out, _ = run(*verb.split(), "--help")
    assert code == 0
    assert f"Example: medssl {verb}" in " ".join(out.split())
    assert "--json" in out


def test_there_is_no_verb_without_these_tests() -> None:
    groups = {name for group in app.registered_groups if group.typer_instance for name in ["pool"]}
    named = {c.name or c.callback.__name__.replace("_", "-") for c in app.registered_commands if c.callback}
    assert named | groups == {v.split()[0] for v in VERBS}


@pytest.mark.parametrize(("verb", "known"), [("methods", "mae"), ("strategies", "pt4al"), ("encoders", "vit")])
def test_listings_name_what_a_study_may_name(run, verb: str, known: str) -> None:
    code, out, _ = run(verb, "--json")
    (rows,) = json.loads(out).values()
    assert code == 0
    assert known in [row["name"] for row in rows]
    assert known in run(verb)[1]


def test_pool_info_and_verify(run, tmp_path: Path) -> None:
    pool = make_pool(tmp_path / "pool", 6)
    code, out, _ = run("pool", "info", pool.path, "--json")
    assert (code, json.loads(out)["volumes"]) == (0, 12)
    assert run("pool", "verify", pool.path)[0] == 0
    shard = pool.shards / "00000.tar"
    content = bytearray(shard.read_bytes())
    row = pool.catalog.volumes.row(5, named=True)
    content[row["offset"] + row["length"] // 2] ^= 4
    shard.write_bytes(bytes(content))
    code, _, err = run("pool", "verify", pool.path)
    assert code == 2
    assert row["volume"] in err
    assert "00000.tar" in err


def test_pool_pull_copies_a_pool_and_says_what_it_did(run, tmp_path: Path) -> None:
    pool = make_pool(tmp_path / "pool", 6)
    code, out, _ = run("pool", "pull", f"file://{pool.path}", tmp_path / "copy", "--most-gb", 1, "--json")
    assert (code, json.loads(out)["volumes"], json.loads(out)["most_bytes"]) == (0, 12, 10**9)
    assert run("pool", "verify", tmp_path / "copy")[0] == 0
    assert "a copy of 12 volumes" in run("pool", "pull", f"file://{pool.path}", tmp_path / "copy")[1]


def test_training_refuses_a_flipped_byte(run, tmp_path: Path, study_file: Path) -> None:
    pool = make_pool(tmp_path / "pool", 6)
    shard = pool.shards / "00000.tar"
    content = bytearray(shard.read_bytes())
    content[int(pool.catalog.volumes["offset"][0]) + 40] ^= 1
    shard.write_bytes(bytes(content))
    code, _, err = run("pretrain", study_file)
    assert code == 2
    assert "checksum" in err


def one_line(err: str) -> str:
    """Return the error, which must be one line."""
    (line,) = [text for text in err.splitlines() if text.startswith("error:")]
    assert "Traceback" not in err
    return line


def test_bad_input_is_one_line_with_exit_code_2(run, tmp_path: Path, study_file: Path, key_file: Path) -> None:
    make_pool(tmp_path / "pool", 6, labelled=False)
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("no image")
    (tmp_path / "other-key").write_bytes(b"o" * 32)
    (tmp_path / "unknown.csv").write_text("study,shape\n" + "f" * 32 + ",round\n")
    first = KEY.hmac("study", "0", "0")
    (tmp_path / "conflict.csv").write_text(f"study,shape\n{first},round\n{first},bitten\n")
    new = ("--pool", tmp_path / "new", "--key", key_file)
    cases = [
        (("pretrain", study_file, "method.name=mea"), "did you mean 'mae'?"),
        (("pretrain", study_file, "method.mask_rato=1"), "did you mean 'mask_ratio'?"),
        (("pretrain", study_file, "encoder={name: resnet}"), "choose encoder.name: vit"),
        (("pretrain", study_file, f"pool={tmp_path / 'empty'}"), "pool.json"),
        (("pool", "info", tmp_path / "empty"), "pool.json"),
        (("pool", "info", "[/x]"), "[/x]"),
        (("pretrain", study_file, "method.decoder_heads=5"), "method.decoder_heads: 5 does not divide"),
        (("pretrain", study_file, "method.crop_scale=[0.9,0.1]"), "expected two fractions in order"),
        (("ingest", tmp_path / "empty", *new), "no files"),
        (("ingest", tmp_path / "texts", *new), "DICOM"),
        (("ingest", tmp_path / "texts", "--pool", tmp_path / "pool", "--key", tmp_path / "other-key"), "key"),
        (("import-labels", study_file, tmp_path / "unknown.csv", "--key", key_file), "2"),
        (("import-labels", study_file, tmp_path / "conflict.csv", "--key", key_file), "contradict each other: 2, 3"),
        (("select-for-labeling", study_file, "selection.budget=500"), "selection.budget 500 is more than the"),
        (("predict", tmp_path / "empty", tmp_path / "texts"), "model.json"),
        (("demo", "--out", tmp_path / "texts"), "is not empty"),
        (("pool", "pull", f"file://{tmp_path}", tmp_path / "new"), "no pool.json there"),
        (("pool", "pull", f"file://{tmp_path / 'pool'}", tmp_path / "texts"), "not a copy of a remote pool"),
        (("embed", study_file), "run `medssl pretrain` first"),
        (("plan", study_file, "loop.crops=3"), "is not a multiple of loop.crops 3"),
    ]
    for words, expected in cases:
        code, out, err = run(*words)
        assert code == 2, (words, err)
        assert out == ""
        assert expected in one_line(err), words
    assert not (tmp_path / "new").exists()
    assert run("pool", "info", tmp_path / "pool", "--json")[1].count('"task"') == 0


README = Path(__file__).parents[1] / "README.md"


def test_every_medssl_command_of_the_readme_is_one_that_the_command_line_knows(run) -> None:
    lines = re.findall(r"^medssl (.+?)(?:  #.*)?$", README.read_text(), re.M)
    assert len(lines) >= 6
    for line in lines:
        words = line.split()
        verb = words[:2] if words[0] == "pool" else words[:1]
        code, out, _ = run(*verb, "--help")
        assert code == 0, line
        for option in re.findall(r"--[a-z-]+", line):
            assert option in out, line
