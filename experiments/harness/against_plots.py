"""Pictures of `experiments.claims.against`: scores as dots, photos as strips. Not an experiment itself."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image

from experiments.harness.claims import Line

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

# Exact reconstructions in float64 reach 300 dB; the plot ends here.
MAX_PSNR, MARKERS = 130, "osv^DPX*"
# What a line's second score is called.
PUBLISHED = "scored as published"
Shown = list[tuple[str, list[Line]]]


def draw_scores(shown: Shown, names: list[str], path: Path) -> None:
    """A dot per trial, its median PSNR, by problem and method.

    Args:
        shown: problems in words, with their lines.
        names: methods; those that end in `PUBLISHED` are the second score of the one before the comma.
        path: of the PNG.
    """
    shown = [(words, lines) for words, lines in shown if lines]
    figure, axis = plt.subplots(figsize=(10, 0.75 * len(shown) + 1.5), layout="constrained")
    for number, name in enumerate(names):
        method = name.removesuffix(f", {PUBLISHED}")
        score = "median_psnr" if method == name else "published_median_psnr"
        dots = [
            (np.clip(line[score], 0, MAX_PSNR), place + 0.1 * (number - (len(names) - 1) / 2))
            for place, (_, lines) in enumerate(shown)
            for line in lines
            if line["setting"]["method"] == method
        ]
        axis.scatter(*np.reshape(dots, (-1, 2)).T, s=18, marker=MARKERS[number], color=f"C{number}", label=name)
    for place in range(1, len(shown)):
        axis.axhline(place - 0.5, color="0.9", linewidth=1, zorder=0)
    axis.axvline(90, color="0.7", linewidth=1)
    axis.set_yticks(range(len(shown)), [words.replace(", one", ",\none") for words, _ in shown])
    axis.set_xlim(-3, MAX_PSNR + 4)
    axis.invert_yaxis()
    axis.set_xlabel(f"median PSNR of a batch, dB (0: that and less, {MAX_PSNR}: that and more); recovered from 90 on")
    figure.legend(loc="outside upper center", ncols=4, frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_photos(shown: Shown, names: list[str], path: Path) -> None:
    """A row of photos per method and a column per problem, of the lines that hold pictures; nothing without any.

    Args:
        shown: problems in words, with their lines.
        names: of the pictures, top to bottom; those that no line holds are left out.
        path: of the PNG.
    """
    pictures = {
        words: {name: text for line in lines for name, text in line.get("pictures", {}).items()}
        for words, lines in shown
    }
    pictures = {words: strips for words, strips in pictures.items() if strips}
    if not pictures:
        return
    names = [name for name in names if any(name in strips for strips in pictures.values())]
    size = (4.6 * len(pictures) + 1.6, 1.2 * len(names) + 0.4)
    figure, axes = plt.subplots(len(names), len(pictures), figsize=size, squeeze=False, layout="constrained")
    for column, (words, strips) in zip(axes.T, pictures.items(), strict=True):
        column[0].set_title(words, fontsize=10)
        for axis, name in zip(column, names, strict=True):
            axis.set(xticks=[], yticks=[])
            if name in strips:
                axis.imshow(decode(strips[name]))
    for axis, name in zip(axes[:, 0], names, strict=True):
        axis.set_ylabel(name.replace(", ", ",\n"), rotation=0, ha="right", va="center", fontsize=9)
    figure.savefig(path, dpi=75)
    plt.close(figure)


def encode(pixels: np.ndarray) -> str:
    """Pixels (H, W, 3), clipped to [0, 1], as a JPEG in base64: for the eye, in a line."""
    stream = io.BytesIO()
    Image.fromarray(np.rint(255 * np.clip(pixels, 0, 1)).astype(np.uint8)).save(stream, "jpeg", quality=90)
    return base64.b64encode(stream.getvalue()).decode()


def decode(text: str) -> Image.Image:
    """The image that `encode` wrote."""
    return Image.open(io.BytesIO(base64.b64decode(text)))
