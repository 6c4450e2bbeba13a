"""The public names are frozen, and importing the package or its help stays quick."""

import subprocess
import sys

from medssl import api


def test_public_names_are_these_and_no_others() -> None:
    assert api.__all__ == [
        "MedsslError", "Pool", "Result", "Study", "evaluate", "finetune", "import_labels", "ingest", "load_study",
        "predict", "pretrain", "review", "select",
    ]  # fmt: skip
    assert all(callable(getattr(api, name)) for name in api.__all__)


def test_importing_medssl_or_its_help_pulls_in_no_heavy_library() -> None:
    assert _loaded_by("medssl, medssl.cli", "torch", "monai", "mlflow", "timm", "sklearn", "polars", "pydicom") == "[]"


def test_ingesting_and_counting_a_pool_do_without_the_libraries_that_train_judge_and_draw() -> None:
    verbs = "medssl.verbs.ingest, medssl.verbs.pool, medssl.verbs.remove"
    assert _loaded_by(verbs, "torch", "monai", "mlflow", "timm", "sklearn", "matplotlib", "highdicom") == "[]"


def _loaded_by(modules: str, *heavy: str) -> str:
    code = f"import sys, {modules}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()
