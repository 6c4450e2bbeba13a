"""Files appear whole or not at all."""

from pathlib import Path

import pytest

from medssl.core.files import atomic, read_json, write_json


def test_a_failing_write_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "a.json"
    write_json(target, {"a": 1})
    with pytest.raises(OSError, match="disk full"), atomic(target) as partial:
        partial.write_text("half")
        raise OSError("disk full")
    assert read_json(target) == {"a": 1}
    assert [p.name for p in target.parent.iterdir()] == ["a.json"]
