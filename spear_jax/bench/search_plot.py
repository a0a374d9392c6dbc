"""The picture of `bench.search`: a bar for each stage, what the device did and what the host did."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spear_jax.bench.search import Timing

# Stages drawn at most, and the colours of device and host, which differ in grey too.
MOST_STAGES = 12
DEVICE_COLOUR, HOST_COLOUR = "#1b6ca8", "#f2b134"


def plot_timings(timings: Sequence[Timing], path: Path) -> None:
    """Draw one panel for each problem.

    Args:
        timings: of `bench_search`, at least one.
        path: picture to write, of any kind that Matplotlib writes.
    """
    figure = Figure(figsize=(5.2 * len(timings) + 0.8, 4.4), layout="constrained")
    for axes, timing in zip(figure.subplots(1, len(timings), squeeze=False)[0], timings, strict=True):
        _draw(axes, timing)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _draw(axes: Axes, timing: Timing) -> None:
    shares = timing.shares[:MOST_STAGES][::-1]
    names = [share.stage for share in shares]
    device, host = [share.device for share in shares], [share.host for share in shares]
    axes.barh(names, device, color=DEVICE_COLOUR, label=f"compiled programs, {sum(device):.2f} s")
    axes.barh(names, host, left=device, color=HOST_COLOUR, label=f"host, {sum(host):.2f} s")
    axes.set_xlabel("seconds, once everything is compiled")
    axes.set_title(f"{timing.problem}: {timing.certified} of {timing.batch_size} certified", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
