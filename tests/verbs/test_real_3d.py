"""Real CT and MR series, of several vendors, spacings and orientations: every method trains on them in 3D."""

from pathlib import Path

import numpy as np
import pytest
from small_pool import KEY

from medssl.core.types import Role
from medssl.data.prepare import prepare
from medssl.methods.base import METHODS
from medssl.pool.pool import Pool
from medssl.study import Study
from medssl.tracking.records import read_runs
from medssl.verbs.ingest import ingest
from medssl.verbs.pretrain import pretrain

ENCODER = {"name": "vit", "width": 48, "depth": 2, "heads": 2, "patch": 8}
SMALL = {
    "dino": {"hidden": 64, "local_crops": 2},
    "moco_v3": {"hidden": 64, "output": 32},
    "rotation": {"turns": "cube"},
}


@pytest.fixture(scope="module")
def pool(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Pool:
    folder = tmp_path_factory.mktemp("series")
    (folder / "key").write_bytes(KEY.secret)
    ingest([shared / "data" / "dicom_series"], folder / "pool", key_file=folder / "key", workspace=folder / "work")
    return Pool.open(folder / "pool")


def study(pool: Pool, folder: Path, method: str) -> Study:
    return Study.parse({
        "name": f"real_{method}", "pool": pool.path, "workspace": folder / "work", "encoder": ENCODER,
        "prepare": {"shape": [32, 32, 32], "spacing_mm": [4.0, 4.0, 4.0], "fit": "crop", "foreground": True},
        "method": {"name": method, **SMALL.get(method, {})}, "loop": {"epochs": 6, "batch_size": 4, "log_steps": 1},
        "watch": {"pictures_epochs": 3}, "tasks": {},
    })  # fmt: skip


@pytest.mark.slow
def test_series_are_brought_to_one_spacing_and_orientation(pool: Pool, tmp_path: Path) -> None:
    data = prepare(pool, study(pool, tmp_path, "mae").prepare)
    assert set(data.catalog.volumes["modality"]) >= {"CT", "MR"}
    np.testing.assert_allclose(data.catalog.volumes["spacing_mm"].to_list(), 4.0, rtol=1e-6)
    for row, affine in enumerate(data.catalog.volumes["affine"].to_list()):
        if affine is not None:
            axes = np.array(affine).reshape(4, 4)[:3, :3]
            assert np.diag(axes)[0] < 0 and np.diag(axes)[1] < 0 and np.diag(axes)[2] > 0  # RAS, told in LPS
        voxels = data.reader.read(row)
        assert voxels.min() >= 0 and voxels.max() <= 1 and voxels.std() > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS.names())
def test_every_method_trains_on_real_series_without_an_alarm(method: str, pool: Pool, tmp_path: Path) -> None:
    made = study(pool, tmp_path, method)
    done = pretrain(made)
    assert len(prepare(pool, made.prepare).role(Role.DEV)) >= 4
    (run,) = [r for r in read_runs(made.workspace) if r.kind == "pretrain"]
    losses = [value for _, value in run.metrics["loss"]]
    assert np.isfinite(losses).all()
    assert list((Path(done.data["encoder"]) / "pictures").glob("*.png"))
    assert not [note for note in run.notes if "collaps" in note or "not finite" in note]
