"""The frontier: what share of a batch comes back, over b and m, by each method, centred and in [0, 1].

Claim: sampling ends near b = 25 whatever the width (SPEAR, abstract: b <~ 25, facts "S"); the wall of the dictionary
method lies near m = 4 b for centred inputs and one layer's gradient; with the layers above it moves to about 3 b, and
they make up for inputs that are not centred. As roots of what the next layers saw (ours) samples come back to about 3 b
behind ReLU and 2 b behind GELU. Expected figures: none known beyond 25; SPEAR++ is said to end at 65 of
m = 1000 (facts "S2"). Float64 gradients, 64 x 64 photos, six hidden layers, 60 s of search.
Hardware: two CPU cores. Time: about two hours.

    python -m experiments.claims.frontier --data DIR
    python -m experiments.claims.frontier --table           # only draw results/figures/frontier.png

Each trial appends one line to results/lines/frontier.jsonl, failures included.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np

from experiments.harness import claims, recovery
from experiments.harness.claims import Claim, Finding, Line, Setting
from experiments.harness.recovery import Options

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402

NAME, FIRST_SEED, SECONDS = "frontier", 900, 60.0
SIZES = (16, 24, 32, 48, 64, 80, 96, 128, 160, 192, 224, 256, 300)
# Width and largest b that is tried. Quick runs take the first width, the smallest b and centred inputs.
WIDTHS = ((200, 96), (400, 192), (1000, 300))
PANELS = {
    "sampling": {"method": "sampling", "max_candidates": 10**13},
    "dictionary": {"method": "dictionary"},
    "auto, whole update": {"whole_update": True},
    "span, ReLU": {"method": "span", "whole_update": True},
    "span, GELU": {"method": "span", "whole_update": True, "activation": "gelu"},
}
SCALINGS = {"centred": {}, "in [0, 1]": {"raw": True}}
# Sampling beyond this is not worth trying: it takes hours (docs/sampling.md).
SAMPLED = 48


def settings(is_quick: bool) -> list[Setting]:
    """Width by width, so that a run that is stopped has whole rows."""
    common = Options(dtype="float64", max_seconds=SECONDS)
    return [
        common._replace(width=width, batch_size=b, **PANELS[panel], **SCALINGS[scaling]).setting(FIRST_SEED)
        for width, largest in (WIDTHS[:1] if is_quick else WIDTHS)
        for b in (SIZES[:1] if is_quick else SIZES)
        for panel in PANELS
        for scaling in (("centred",) if is_quick else SCALINGS)
        if b <= largest and (panel != "sampling" or b <= SAMPLED)
    ]


def findings(lines: list[Line]) -> list[Finding]:
    """For each panel the largest batch that came back whole, by width."""
    found = []
    for panel, scaling in ((panel, scaling) for scaling in SCALINGS for panel in PANELS):
        mine = _lines(lines, panel, scaling)
        best = {
            width: [line["samples"] for line in mine if _width(line) == width and line["all_exact"]]
            for width, _ in WIDTHS
        }
        if mine:
            measured = ", ".join(f"{max(sizes)} at m = {width}" for width, sizes in best.items() if sizes)
            false = sum(line["false_certificates"] for line in mine)
            known = {"sampling": "about 25 (S)", "span, GELU": "ours"}
            expected = known.get(panel, "65 at m = 1000 by SPEAR++ (S2)")
            found.append(
                Finding(
                    f"largest batch that comes back whole, {panel}, {scaling}",
                    expected,
                    f"{measured or 'none'}; {false} false certificates in {len(mine)} batches",
                    mine,
                )
            )
    return found


def draw(lines: list[Line], folder: Path) -> None:
    """Heat maps: share of the samples that are certified, or, where none is, of the directions found."""
    figure, axes = plt.subplots(len(SCALINGS), len(PANELS), figsize=(26, 5.2), layout="constrained")
    for row, scaling in zip(axes, SCALINGS, strict=True):
        for axis, panel in zip(row, PANELS, strict=True):
            _panel(axis, _lines(lines, panel, scaling))
            axis.set_title(f"{panel}, {scaling}")
    figure.supxlabel("b")
    figure.supylabel("m")
    figure.colorbar(axes[0, 0].images[0], ax=axes, label="share of the directions found")
    figure.savefig(folder / f"{NAME}.png", dpi=110)
    plt.close(figure)


def _panel(axis: Axes, lines: list[Line]) -> None:
    """Share of the directions found, 1 where the batch came back whole."""
    values = np.full((len(WIDTHS), len(SIZES)), np.nan)
    for line in lines:
        row, column = [width for width, _ in WIDTHS].index(_width(line)), SIZES.index(line["samples"])
        values[row, column] = line["directions"] / line["samples"]
        text = "1" if line["all_exact"] else f"{values[row, column]:.2f}"
        axis.text(column, row, text, ha="center", va="center", fontsize=8, color="wk"[int(values[row, column] < 0.6)])
    axis.imshow(values, vmin=0, vmax=1, cmap="YlGn", aspect="auto")
    axis.set_xticks(range(len(SIZES)), [str(size) for size in SIZES], fontsize=8)
    axis.set_yticks(range(len(WIDTHS)), [str(width) for width, _ in WIDTHS])


def _lines(lines: list[Line], panel: str, scaling: str) -> list[Line]:
    wanted = Options()._replace(**PANELS[panel], **SCALINGS[scaling])
    same = lambda options: all(
        getattr(options, name) == getattr(wanted, name) for name in ("method", "whole_update", "raw", "activation")
    )
    return [line for line in claims.of(lines) if same(recovery.options_of(line["setting"]))]


def _width(line: Line) -> int:
    return recovery.options_of(line["setting"]).width


CLAIM = Claim(NAME, settings, recovery.trial, findings, draw)


if __name__ == "__main__":
    claims.main(CLAIM, __doc__)
