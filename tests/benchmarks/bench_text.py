"""How much burned-in text is found, of which size and contrast, and how often something else is taken for it.

python tests/benchmarks/bench_text.py SHARED/data/chest_xray_224/images.tar [number of images a cell]
"""

from __future__ import annotations

import io
import sys
import tarfile
import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter

from medssl.dicom.text import find_text

FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSansMono", "DejaVuSerif", "DejaVuSansCondensed")
TEXTS = ("QUILLFEATHER, Ottoline", "MRN7719204", "1961-04-17  F", "Dr. Zanzibart 12:04")
SIZES, CONTRASTS = (8, 12, 16, 32, 64), (1.0, 0.5, 0.25)
Grey = NDArray[np.float64]


def radiographs(path: str, side: int, step: int) -> Iterator[Grey]:
    """Yield every ``step``-th image of the archive, scaled to ``side`` pixels."""
    with tarfile.open(path) as tar:
        files = [member for member in tar if member.isfile()]
        for member in files[::step]:
            handle = tar.extractfile(member)
            with Image.open(io.BytesIO(handle.read() if handle else b"")) as image:
                yield np.asarray(image.convert("L").resize((side, side), Image.Resampling.BICUBIC), float)


def sector(seed: int) -> Grey:
    """Return an ultrasound sector of sharp speckle."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:600, :800]
    depth, angle = np.hypot(x - 400, y - 20), np.arctan2(x - 400, y - 20)
    speckle = np.abs(gaussian_filter(rng.normal(size=y.shape), (1, 2))) * gaussian_filter(rng.random(y.shape), 25)
    return np.clip(speckle / np.percentile(speckle, 99) * 160, 0, 255) * ((np.abs(angle) < 0.6) & (depth < 540))


def written(image: Grey, text: str, font: ImageFont.FreeTypeFont, contrast: float, at: tuple[int, int]) -> float:
    """Return the share of a text that is found on an image."""
    mask = Image.new("L", image.shape[::-1])
    draw = ImageDraw.Draw(mask)
    draw.text(at, text, 255, font)
    left, top, right, bottom = (int(v) for v in draw.textbbox(at, text, font))
    around = image[top:bottom, left:right].mean()
    level = min(255, around + contrast * 255) if around < 140 or contrast < 0.5 else max(0, around - contrast * 255)
    alpha = np.asarray(mask) / 255
    found = np.zeros(image.shape, bool)
    for box in find_text((image * (1 - alpha) + level * alpha).astype(np.uint8)):
        found[box] = True
    return float(found[top:bottom, left:right].mean())


def report(name: str, images: list[Grey]) -> None:
    """Print false alarms, then recall by contrast and size: share of texts found to 80 %, and to 10 %."""
    start, boxes = time.process_time(), [find_text(image) for image in images]
    milliseconds = 1e3 * (time.process_time() - start) / len(images)
    print(f"{name}: {sum(map(bool, boxes))} of {len(images)} without text raise an alarm, {milliseconds:.0f} ms each")
    rng = np.random.default_rng(0)
    for contrast in CONTRASTS:
        cells = []
        for size in SIZES:
            shares = []
            for i, image in enumerate(images):
                font = ImageFont.truetype(f"{FONTS[i % len(FONTS)]}.ttf", size)
                height, width = image.shape
                at = int(rng.integers(5, max(6, width - size * 14))), int(rng.integers(5, height - 2 * size))
                shares.append(written(image, TEXTS[i % len(TEXTS)], font, contrast, at))
            cells.append(f"{size} px {np.mean(np.array(shares) > 0.8):.2f} {np.mean(np.array(shares) > 0.1):.2f}")
        print(f"  contrast {contrast}: " + ", ".join(cells))


if __name__ == "__main__":
    archive, num = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 20
    report("black", [np.zeros((600, 800))] * num)
    report("radiographs", list(radiographs(archive, 896, 5216 // num))[:num])
    report("sectors", [sector(seed) for seed in range(num)])
