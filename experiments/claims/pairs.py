"""The seconds of a search beside those of an earlier commit, in pairs: one call of each in turn, on the same cores.

Claim (ours, no source): the aims of issue "on the accelerator": twice to four times as fast as commit 0fe2c20, the last
one before the float64 stages were written for a device. Both commits get the same images, weights, update and key; each
is a process of its own that compiles in a first call, which is told apart, and then waits for its turn. The ratio is
the median over pairs.
Hardware: two CPU cores, nothing else running on them. Time: an hour. Needs git and the commit in the history.

    python -m experiments.claims.pairs --data DIR
    python -m experiments.claims.pairs --data DIR --only batch_size=64

Each trial appends one line to results/lines/pairs.jsonl, failures included.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.harness import claims, common
from experiments.harness.claims import Claim, Finding, Line, Setting
from experiments.harness.recovery import Options

BEFORE = "0fe2c20"
ROOT = Path(__file__).parents[2]
SEED = 700
# What runs in either commit: it says the seconds and the certified samples of one call whenever it is asked.
CALLER = """
import json, sys
from pathlib import Path
import jax
jax.config.update("jax_enable_x64", True)
try:
    from experiments.harness import recovery
except ImportError:  # a commit from before there was a harness
    from experiments import recovery
options, path, seed = json.loads(sys.argv[1])
for _ in sys.stdin:
    made = recovery.attack(recovery.Options(**options), Path(path), seed)
    compiling = made.result.stats.seconds["compile"]
    certified = int(made.result.certificate.exact.sum())
    print("said", json.dumps([made.seconds - compiling, compiling, certified]), flush=True)
"""


class Row(NamedTuple):
    """One problem, how often it is timed, and how many times faster than before it is meant to be."""

    claim: str
    options: Options
    repeats: int
    aim: float


PHOTOS, SMALL = Options(width=1000), Options(width=1000, dtype="float64")
RAW = Options(width=1000, dtype="float64", raw=True, whole_update=True)
ROWS = (
    Row("b = 64, m = 1000, float32", PHOTOS._replace(batch_size=64), 5, 2),
    Row("b = 128, m = 1000, float32", PHOTOS._replace(batch_size=128), 5, 2),
    Row("b = 200, m = 2000, float32", PHOTOS._replace(batch_size=200, width=2000), 5, 2),
    Row("b = 64, m = 1000, in [0, 1], whole update", RAW._replace(batch_size=64, classes=10), 5, 3),
    Row("b = 128, m = 1000, in [0, 1], whole update", RAW._replace(batch_size=128, classes=10), 3, 3),
    Row("b = 64, m = 1000, photos of 224 x 224", PHOTOS._replace(batch_size=64, images="imagenet/224"), 3, 4),
    Row("b = 64, m = 1000, after 400 SGD steps", PHOTOS._replace(batch_size=64, train_steps=400), 3, 4),
    Row("b = 28, m = 2000, sampling", SMALL._replace(batch_size=28, width=2000, method="sampling"), 3, 2),
    Row("b = 250, m = 1000, float64", SMALL._replace(batch_size=250), 1, 4),
    Row("b = 256, m = 1000, in [0, 1], whole update", RAW._replace(batch_size=256, classes=1000), 1, 3),
    Row(
        "b = 600, m = 4800, CIFAR-10", SMALL._replace(batch_size=600, width=4800, images="cifar10.npz"), 1, 2
    ),
)  # fmt: skip


def settings(is_quick: bool) -> list[Setting]:
    """Every row once."""
    return [row.options.setting(SEED) | {"against": BEFORE} for row in (ROWS[:1] if is_quick else ROWS)]


def trial(setting: Setting, data: str | None) -> dict[str, Any] | None:
    """Calls of both commits in turn: seconds of each pair, compile seconds, certified samples."""
    (row,) = [row for row in ROWS if row.options.setting(SEED) | {"against": BEFORE} == setting]
    path = common.find_data(row.options.images, data)
    if path is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        _check_out(setting["against"], folder)
        before, now = (_caller(tree, row.options, path) for tree in (Path(folder), ROOT))
        pairs = [(_call(before), _call(now)) for _ in range(row.repeats + 1)]
        for process in (before, now):
            process.communicate()
    (first_before, first_now), timed = pairs[0], np.array([[old[0], new[0]] for old, new in pairs[1:]])
    return {
        "before": timed[:, 0].tolist(), "now": timed[:, 1].tolist(),
        "ratio": float(np.median(timed[:, 0] / timed[:, 1])),
        "compile_before": first_before[1], "compile_now": first_now[1],
        "first_before": first_before[0] + first_before[1], "first_now": first_now[0] + first_now[1],
        "certified_before": first_before[2], "certified_now": first_now[2], "samples": row.options.batch_size,
    }  # fmt: skip


def _check_out(commit: str, folder: str) -> None:
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True)
    subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)


def _caller(tree: Path, options: Options, path: Path) -> subprocess.Popen[str]:
    """A process that runs one commit's code."""
    named = {name: value for name, value in options.setting(SEED).items() if name != "seed"}
    return subprocess.Popen(
        [sys.executable, "-c", CALLER, json.dumps([named, str(path.resolve()), SEED])],
        cwd=tree, env=os.environ | {"PYTHONPATH": str(tree)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def _call(process: subprocess.Popen[str]) -> list[float]:
    """Seconds without compiling, seconds of compiling and certified samples of one call."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    for line in process.stdout:
        if line.startswith("said "):
            return json.loads(line.removeprefix("said "))
    raise RuntimeError(f"The process ended before it answered, with exit code {process.wait()}.")


def findings(lines: list[Line]) -> list[Finding]:
    """One row of the table for each problem."""
    return [
        Finding(f"speed: {row.claim}", f"{row.aim:g} times as fast as {BEFORE}", _told(line), [line])
        for row in ROWS
        for line in claims.of(lines, **row.options.setting(SEED))
    ]


def _told(line: Line) -> str:
    return (
        f"{line['ratio']:.2f} times as fast: {np.median(line['now']):.2f} s, before {np.median(line['before']):.2f} s "
        f"(medians of {len(line['now'])}); compiling {line['compile_now']:.1f} s, before "
        f"{line['compile_before']:.1f} s; {line['certified_now']} of {line['samples']} certified, before "
        f"{line['certified_before']}"
    )


CLAIM = Claim("pairs", settings, trial, findings)


if __name__ == "__main__":
    claims.main(CLAIM, __doc__)
