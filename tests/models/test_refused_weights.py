"""Weights that do not fit and files that are none are refused in a line; an adaptation says what it did in one."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_weights import saved
from safetensors.torch import save_file
from small_encoders import small

from medssl.core.errors import EncoderError
from medssl.models.adapt import Adaptation, load_weights


def test_another_encoder_is_refused_by_name_and_left_as_it_was(tmp_path: Path) -> None:
    target = small("resnet", depth=18)
    before = {k: v.clone() for k, v in target.state_dict().items()}
    with pytest.raises(EncoderError, match=r"has 44% .* at least 90%; missing net.layer1.1.conv1.weight \(not") as e:
        load_weights(target, saved(small("resnet"), "resnet", tmp_path))
    assert str(e.value).endswith("and 36 more") and "\n" not in str(e.value)
    wider = small("resnet", width=16)
    with pytest.raises(EncoderError, match=r"missing net.conv1.0.weight \(\(4, 1, 3, 3\) there, \(8, 1, 3, 3\) here\)"):
        load_weights(wider, tmp_path)
    with pytest.raises(EncoderError, match="holds encoder resnet, expected swin"):
        load_weights(small("swin"), tmp_path)
    assert all(torch.equal(before[k], v) for k, v in target.state_dict().items())
    assert load_weights(target, tmp_path, least=0.4).share < 0.5


class Harmful:
    def __reduce__(self) -> Any:
        return print, ("run",)


def test_files_that_are_no_weights_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = small("resnet")
    (tmp_path / "harmful.pt").write_bytes(pickle.dumps(Harmful(), protocol=2))
    torch.save({"state_dict": {"a": Harmful()}}, tmp_path / "wrapped.pt")
    (tmp_path / "damaged.safetensors").write_bytes(b"no")
    (tmp_path / "damaged.pt").write_bytes(b"")
    torch.save([torch.zeros(1)], tmp_path / "list.pt")
    for folder, name in (("run", "encoder.json"), ("hub", "config.json")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text("{", encoding="utf-8")
        save_file({"a": torch.zeros(1)}, tmp_path / folder / "model.safetensors")
    said = {
        "harmful.pt": "save its state_dict alone",
        "wrapped.pt": "save its state_dict alone",
        "damaged.safetensors": "cannot be read as weights",
        "damaged.pt": "cannot be read as weights",
        "list.pt": "holds a list, expected tensors by name",
        "run": "encoder.json is damaged",
        "hub": "config.json is damaged",
        "nowhere.pt": "no weights there; name a run",
    }
    for name, words in said.items():
        with pytest.raises(EncoderError, match=words) as error:
            load_weights(target, tmp_path / name)
        assert "\n" not in str(error.value)
    assert capsys.readouterr().out == ""


def test_an_adaptation_lists_a_few_names_only() -> None:
    missing = {f"layer{i}": "not there" for i in range(9)}
    line = str(Adaptation("x.pt", ("a",), {}, missing, ("head",), 0.95, None))
    assert "x.pt (licence: not stated): 95.0%" in line
    assert "missing: layer0 (not there), layer1 (not there), layer2 (not there), layer3 (not there) and 5 more" in line
    assert "adapted: none" in line and "without a place: head" in line
