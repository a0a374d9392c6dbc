"""Where the time of a search goes, stage by stage: device and host, matrix products and copies.

Claim (ours, no source): none but the table itself, which says what is worth making faster. Photos of the demo behind
three hidden layers, the whole update given, float32 client; `spear-jax bench search` makes the same table of any one.
Median of three calls after the first, and one more under JAX's profiler. Host and device of a CPU are the same cores.
Hardware: any. Time: ten minutes on two CPU cores. Data: those of the demo.

    python -m experiments.claims.stages

Each trial appends one line to results/lines/stages.jsonl, failures included.
"""

from __future__ import annotations

from typing import Any

from experiments.harness import claims
from experiments.harness.claims import Claim, Finding, Line, Setting
from spear_jax.bench.problems import PROBLEMS
from spear_jax.bench.search import bench_search

NAME = "stages"
QUICK = ("64@1000",)
# Stages named in the table.
NAMED = 3


def settings(is_quick: bool) -> list[Setting]:
    """Every named problem."""
    return [{"problem": name, "seed": 0} for name in (QUICK if is_quick else PROBLEMS)]


def trial(setting: Setting, data: str | None) -> dict[str, Any]:
    """What `bench_search` measured."""
    return bench_search(setting["problem"], seed=setting["seed"]).to_json()


def findings(lines: list[Line]) -> list[Finding]:
    """One row for each problem."""
    return [
        Finding(f"stages of {line['setting']['problem']}", "a measurement, not a claim", _told(line), [line])
        for line in claims.of(lines)
    ]


def _told(line: Line) -> str:
    total = sum(stage["seconds"] for stage in line["stages"])
    device = sum(stage["device"] for stage in line["stages"])
    longest = ", ".join(
        f"{stage['stage']} {100 * stage['seconds'] / total:.0f} %"
        for stage in sorted(line["stages"], key=lambda stage: -stage["seconds"])[:NAMED]
    )
    return (
        f"{line['certified']} of {line['batch_size']} certified in {line['seconds']:.2f} s, compiling "
        f"{line['compile_seconds']:.1f} s; compiled programs {100 * device / total:.0f} % of it; {longest}"
    )


CLAIM = Claim(NAME, settings, trial, findings)


if __name__ == "__main__":
    claims.main(CLAIM, __doc__)
