"""How often the audits accuse clean data, and name a cue that was planted: on toy images and on real radiographs.

    PYTHONPATH=tests python tests/benchmarks/bench_audits.py --cohorts 100

Images have 32 pixels a side. A nodule inside, planted at random, is the label, so what the border of a real radiograph
tells of pneumonia tells nothing of it: whoever is accused of a shortcut is accused falsely. Cues (a marker in a corner,
a lit border) go with the nodule nine times of ten. The encoder finds blobs wherever they are.
"""

from __future__ import annotations

import argparse
from collections import Counter

import numpy as np
from cue_images import SIZE, audited, cohort, good
from labelled_sets import images_of


def main() -> None:
    """Print a row a kind of image, a number of images and a cue."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cohorts", type=int, default=100)
    parser.add_argument(
        "--images", type=int, nargs="+", default=[150, 300, 1000], help="of a cohort, 38 % of them test"
    )
    args = parser.parse_args()
    for kind, radiographs in (("toy", None), ("radiographs", one_of_each_patient())):
        for num in args.images:
            for cue in (None, "corner", "border"):
                cohorts = (cohort(seed, num, cue, radiographs=radiographs) for seed in range(args.cohorts))
                named = [audited(made, good, 200, pixels=False).warnings for made in cohorts]
                by_audit = Counter(name for warnings in named for name in warnings)
                print(f"{kind:12} {num:5} {cue or 'clean':7} {sum(map(bool, named)):4} {dict(by_audit)}", flush=True)


def one_of_each_patient() -> np.ndarray:
    """Return radiographs in [0, 1], one of each patient."""
    firsts = []
    for images, _, patients in images_of("chest", SIZE).values():
        firsts.append(images[np.unique(patients, return_index=True)[1]])
    return np.concatenate(firsts).astype(np.float32) / 255


if __name__ == "__main__":
    main()
