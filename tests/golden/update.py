"""Write the golden curves anew, and say how far each has moved: ``python tests/golden/update.py [METHOD …]``."""

import json
import os
import sys
import tempfile
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))

from golden.curves import CASES, golden, read, run


def main(asked: list[str]) -> None:
    """Train every case, or those of the methods asked for."""
    for name, ndim in CASES:
        if asked and name not in asked:
            continue
        with tempfile.TemporaryDirectory() as folder:
            losses, journal = run(name, ndim, Path(folder))
        moved = "new"
        if golden(name, ndim).is_file():
            moved = f"moved by {max(abs(a / b - 1) for a, b in zip(losses, read(name, ndim), strict=True)):.1e}"
        golden(name, ndim).write_text(json.dumps({"losses": losses}, indent=1) + "\n")
        print(f"{name} {ndim}D: {losses[0]:.4f} to {losses[-1]:.4f}, {moved}", *journal.notes, sep="\n  ")


if __name__ == "__main__":
    main(sys.argv[1:])
