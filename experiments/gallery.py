"""A page of reconstructions next to their originals, one sheet for each data set, to look at by eye.

Each sheet shows the first samples of a batch, the certificate's word on each, and the difference twenty times enlarged:
black is exact. Nothing of it is committed, for most of these images may be looked at but not passed on.
Hardware: two CPU cores. Time: about two minutes.

    python -m experiments.gallery --data DIR --out recon-gallery

writes index.html, which holds its pictures.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import jax
import numpy as np

import spear_jax as sj
from experiments.harness import common, recovery
from experiments.harness.recovery import Attack, Options
from spear_jax.report import pictures, template

SHEETS = {
    "MNIST, b = 20, m = 200": Options(images="mnist.npz", batch_size=20),
    "CIFAR-10, b = 20, m = 200": Options(images="cifar10.npz", batch_size=20),
    "Photos of 64 x 64, b = 20, m = 200": Options(batch_size=20),
    "Photos of 64 x 64, b = 128, m = 1000": Options(batch_size=128, width=1000),
    "Photos of 64 x 64 in [0, 1], b = 64, m = 1000, whole update": Options(
        batch_size=64, width=1000, dtype="float64", raw=True, whole_update=True
    ),
    "Photos of 224 x 224, b = 20, m = 200": Options(images="imagenet/224", batch_size=20),
}
SHOWN, SIDE = 12, 128
PAGE = """{% extends "base.html" %}
{% set headline, is_whole, num_samples = "Reconstructions next to their originals", true, 0 %}
{% set sentences, notes = [], ["The first " ~ shown ~ " samples of a batch each, six hidden layers of default
initialisation; the server saw the first layer's gradient, or the whole update where it says so."] %}
{% block body %}
{% for title, words, picture in sheets %}
<h2>{{ title }}</h2>
<p>{{ words }}</p>
<img style="max-width:100%" alt="{{ title }}" src="{{ picture }}">
{% endfor %}
{% endblock %}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help=f"folder of the data pack; the variable {common.DATA_VARIABLE} by default")
    parser.add_argument("--out", type=Path, default=Path("recon-gallery"), help="folder of the page")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    sheets = []
    for seed, (title, options) in enumerate(SHEETS.items()):
        path = common.find_data(options.images, arguments.data)
        if path is not None:
            sheets.append(sheet(title, options, recovery.attack(options, path, seed)))
            print(f"done: {title}", flush=True)
    page = template.environment().from_string(PAGE).render(sheets=sheets, shown=SHOWN)
    path = template.write_page(arguments.out, page)
    print(f"written: {path}")


def sheet(title: str, options: Options, made: Attack) -> tuple[str, str, str]:
    """One batch: its title, what was recovered of it, and its first samples as a data URI."""
    batch, certificate = made.batch, made.result.certificate
    assert batch.images is not None
    assert batch.image_shape is not None
    assert batch.normalization is not None
    scores = sj.evaluate(
        made.result.inputs, made.inputs, certified=certificate.exact, **recovery.pixels(options, batch)
    )
    rows = []
    for place in range(min(SHOWN, batch.size)):
        found = int(scores.assignment[place])
        pixels = None
        if found >= 0:
            one = np.asarray(made.result.inputs)[found].reshape(1, *batch.image_shape)
            pixels = np.asarray(batch.normalization.invert(one))[0]
        is_certified = found >= 0 and bool(certificate.exact[found])
        exact = scores.pixel_exact is not None and scores.pixel_exact[place]
        caption = ("certified" if is_certified else "not certified") + (", every pixel exact" if exact else "")
        rows.append(pictures.SampleRow(batch.images[place], pixels, is_certified, caption))
    drawn = pictures.contact_sheet(rows, side=SIDE)
    words = f"{int(certificate.exact.sum())} of {batch.size} certified. {scores.summary} {made.seconds:.1f} s."
    return title, words, pictures.data_uri(drawn)


if __name__ == "__main__":
    main()
