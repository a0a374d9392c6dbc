"""Seconds and memory over b, m, n and devices: each stage's cost as ``c b^x m^y n^z``, with what the fit leaves over.

Claim (ours, no figure in the literature): every stage is polynomial in b, m and n, where candidates are counted; what
is exponential is their number alone (`sampling.cost`). Expected [D]: factorising reads all m n entries in passes
of a width of 64 at least: y = z = 1 and x near 0; a flat candidate costs 2 b^3 / 3 + 2 m b operations; a candidate of a
walk a share of a step, between b^-1 and b^0, whatever m; solving is linear in n. A walk's submatrices are the same on
any number of devices, and so is its rate where these are threads of one CPU.

Each trial is a planted problem (`spear_jax.testing`) in a fresh process, so that its peak memory is its own and no
compiled program is at hand: the first of its repeats tells the seconds of compiling, the fastest those of each stage.
Trials marked "check" are kept out of the fit and compared with it. Seconds are wall-clock: on a busy machine a fit is
only as good as its residual says.
Hardware: two CPU cores. Time: about twenty minutes, a quick run about one. Sizes for a GPU: add them to `SIZES`.

    python -m experiments.claims.scaling_study
"""

from __future__ import annotations

import hashlib
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import matplotlib
import numpy as np
from matplotlib.axes import Axes

import spear_jax as sj
from experiments.harness import claims
from experiments.harness.claims import Claim, Finding, Line, Setting
from spear_jax import testing
from spear_jax.attacks.dense.sampling import samplers
from spear_jax.bench import sampling
from spear_jax.config import ReconstructConfig

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

NAME, FIRST_SEED, SEEDS, REPEATS = "scaling_study", 700, 2, 3
# (b, m, n) of each kind of trial: one of the three varied at a time, and others to check the fit with.
SIZES = {
    "dictionary": (
        *((b, 512, 2048) for b in (8, 16, 32, 64)),
        *((32, m, 2048) for m in (256, 1024, 2048)),
        *((32, 512, n) for n in (512, 8192, 32768)),
    ),
    "walk": (*((b, 400, 1024) for b in (12, 16, 20, 24, 28)), *((20, m, 1024) for m in (200, 800, 1600))),
    "flat": (*((b, 400, 1024) for b in (6, 9, 12, 16)), *((12, m, 1024) for m in (200, 800, 1600))),
}
CHECKS = {
    "dictionary": ((16, 1024, 8192), (48, 512, 4096), (64, 1024, 4096)),
    "walk": ((16, 800, 1024), (24, 1600, 1024)),
    "flat": ((8, 800, 1024), (16, 200, 1024)),
}
QUICK = {"dictionary": ((8, 512, 2048), (16, 512, 2048)), "walk": ((12, 400, 1024),), "flat": ((6, 400, 1024),)}
# Candidates of one round, all that a trial draws.
ROUND = {"walk": 2**27, "flat": 2**16}
# Weak scaling: as many chains for each device, (b, m) as in the other timings of walks.
DEVICES, CHAINS, WALK_SIZE, WALK_THRESHOLD = (1, 2, 4, 8), 1024, (20, 200), 2


class Stage(NamedTuple):
    """What is fitted.

    Attributes:
        kind: of the trials that it is read from.
        name: of the stage in their seconds.
        variables: what its cost is a power of.
        unit: of its cost.
    """

    kind: str
    name: str
    variables: tuple[str, ...]
    unit: str


STAGES = {
    "factorise": Stage("dictionary", "factorize", ("b", "m", "n"), "s"),
    "search, dictionary": Stage("dictionary", "search", ("b", "m", "n"), "s"),
    "solve": Stage("dictionary", "solve", ("b", "m", "n"), "s"),
    "walk": Stage("walk", "search", ("b", "m"), "s a candidate"),
    "flat": Stage("flat", "search", ("b", "m"), "s a candidate"),
}


class Fit(NamedTuple):
    """``seconds = constant * prod_i variable_i ^ exponent_i``.

    Attributes:
        constant: c.
        exponents: one for each variable.
        factor: what measured seconds are off by, ``exp`` of the root mean square of the residual of the logarithm.
    """

    constant: float
    exponents: tuple[float, ...]
    factor: float


def settings(is_quick: bool) -> list[Setting]:
    """Trials to fit, to check the fit with, and over devices."""
    chosen = [(kind, "fit", size) for kind, sizes in (QUICK if is_quick else SIZES).items() for size in sizes]
    chosen += [] if is_quick else [(kind, "check", size) for kind, sizes in CHECKS.items() for size in sizes]
    problems = [
        {"kind": kind, "use": use, "b": b, "m": m, "n": n, "seed": seed}
        for seed in range(FIRST_SEED, FIRST_SEED + (1 if is_quick else SEEDS))
        for kind, use, (b, m, n) in chosen
    ]
    counts = DEVICES[:2] if is_quick else DEVICES
    return problems + [{"kind": "devices", "devices": count, "seed": FIRST_SEED} for count in counts]


def trial(setting: Setting, data: str | None) -> dict[str, Any]:
    """Run a setting in a fresh process; no data are needed."""
    words = [sys.executable, "-c", f"from experiments.claims.{NAME} import alone; alone()"]
    root = Path(__file__).parents[2]
    done = subprocess.run(words, input=json.dumps(setting), capture_output=True, text=True, cwd=root)
    if done.returncode:
        raise RuntimeError(f"the process of {setting} ended with {done.returncode}: {done.stderr[-500:]}")
    return json.loads(done.stdout.splitlines()[-1])


def alone() -> None:
    """What the fresh process does: a setting comes in, its outcome goes out."""
    setting = json.loads(sys.stdin.read())
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_num_cpu_devices", setting.get("devices", 1))
    outcome = _devices(setting) if setting["kind"] == "devices" else _problem(setting)
    print(json.dumps(outcome | {"devices": setting.get("devices", 1), "peak_memory_gib": peak_memory() / 2**30}))


def peak_memory() -> int:
    """Bytes that this process held at most.

    Not `resource.getrusage` where it can be helped: on Linux a process inherits the peak of its parent there.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 2**10)


def _problem(setting: Setting) -> dict[str, Any]:
    """Seconds of each stage of a whole reconstruction, the fastest of the repeats."""
    kind, b = setting["kind"], setting["b"]
    problem = testing.planted_problem(b, setting["m"], setting["n"], seed=setting["seed"])
    config = ReconstructConfig(method="dictionary")
    if (drawn := ROUND.get(kind)) is not None:
        config = ReconstructConfig(method="sampling", sampler=kind, round_size=drawn, max_candidates=drawn)
    results = [sj.reconstruct(problem.observation, jax.random.key(setting["seed"]), config) for _ in range(REPEATS)]
    seconds = {name: min(result.stats.seconds[name] for result in results) for name in ("factorize", "search", "solve")}
    stats = results[-1].stats
    return {
        "seconds": seconds, "compile_seconds": max(result.stats.seconds["compile"] for result in results),
        "candidates": stats.candidates, "rounds": stats.rounds, "sampler": stats.sampler,
        "status": results[-1].status.name, "whole": bool(results[-1].certificate.exact.all()),
    }  # fmt: skip


def _devices(setting: Setting) -> dict[str, Any]:
    """Rate with so many devices, and a digest of the submatrices of the chains that the most devices take."""
    b, m = WALK_SIZE
    config = ReconstructConfig(num_devices=setting["devices"], hits_capacity=2**14)
    problem, per_chain = sampling.plant(m, b, setting["seed"]), samplers.candidates_per_chain(b)

    def draw(chains: int) -> samplers.Drawn:
        key = jax.random.key(setting["seed"])
        sampler = samplers.walk_sampler(problem.left, key, WALK_THRESHOLD, chains * per_chain, config)
        return sampler.draw(0, chains * per_chain, 0)()

    digest = hashlib.sha256(draw(DEVICES[-1] * CHAINS).rows.tobytes()).hexdigest()[:16]
    chains, seconds = setting["devices"] * CHAINS, []
    for _ in range(1 + REPEATS):
        started = time.perf_counter()
        draw(chains)
        seconds.append(time.perf_counter() - started)
    rate = chains * per_chain / min(seconds[1:])
    return {"submatrices": digest, "compile_seconds": seconds[0] - min(seconds[1:]), "candidates_per_second": rate}


def cost_of(stage: Stage, line: Line) -> float:
    """Seconds of a stage, of one candidate where candidates are what it is made of."""
    return line["seconds"][stage.name] / (line["candidates"] if stage.kind in ROUND else 1)


def fit(stage: Stage, lines: list[Line]) -> Fit | None:
    """Least squares on the logarithm of the costs; None where there are too few sizes for the exponents."""
    mine = claims.of(lines, kind=stage.kind, use="fit")
    sizes = np.log([[line["setting"][name] for name in stage.variables] for line in mine]).reshape(
        len(mine), len(stage.variables)
    )
    design = np.column_stack([np.ones(len(mine)), sizes])
    if np.linalg.matrix_rank(design) <= len(stage.variables):
        return None
    costs = np.log([cost_of(stage, line) for line in mine])
    solution = np.linalg.lstsq(design, costs, rcond=None)[0]
    residual = float(np.sqrt(np.mean((design @ solution - costs) ** 2)))
    return Fit(float(np.exp(solution[0])), tuple(solution[1:].tolist()), float(np.exp(residual)))


def modelled(stage: Stage, fitted: Fit, line: Line) -> float:
    """What the fit makes of a line's size."""
    powers = zip(stage.variables, fitted.exponents, strict=True)
    return fitted.constant * float(np.prod([line["setting"][name] ** exponent for name, exponent in powers]))


def findings(lines: list[Line]) -> list[Finding]:
    """The cost model of each stage, memory, and devices."""
    found = [finding for name in STAGES if (finding := _stage_finding(name, lines)) is not None]
    problems = [line for line in claims.of(lines) if line["setting"]["kind"] in SIZES]
    if problems:
        by_memory = sorted(problems, key=lambda line: line["peak_memory_gib"])
        told = [f"{line['peak_memory_gib']:.2f} GiB at {_size(line)}" for line in (by_memory[0], by_memory[-1])]
        found.append(Finding("peak memory of a process", "grows with m n", f"{told[0]} to {told[1]}", problems))
    shared = claims.of(lines, kind="devices")
    if shared:
        rates = ", ".join(f"{line['candidates_per_second']:.2g}" for line in shared)
        counts = ", ".join(str(line["setting"]["devices"]) for line in shared)
        hashes = len({line["submatrices"] for line in shared})
        found.append(
            Finding(
                f"a walk on {counts} devices of one CPU: submatrices, and candidates a second",
                "one digest; the same rate, as they share the cores",
                f"{hashes} digest{'s' * (hashes > 1)} of {len(shared)}; {rates}",
                shared,
            )
        )
    return found


def _stage_finding(name: str, lines: list[Line]) -> Finding | None:
    stage = STAGES[name]
    mine, fitted = claims.of(lines, kind=stage.kind), fit(stage, lines)
    if fitted is None:
        return None
    powers = " ".join(f"{v}^{exponent:.2f}" for v, exponent in zip(stage.variables, fitted.exponents, strict=True))
    checks = [np.log(cost_of(stage, line) / modelled(stage, fitted, line)) for line in claims.of(mine, use="check")]
    off = f"; {len(checks)} others by {np.exp(np.sqrt(np.mean(np.square(checks)))):.2f}" if checks else ""
    number = len(mine) - len(checks)
    measured = (
        f"{fitted.constant:.2g} {powers} {stage.unit}; off by a factor of {fitted.factor:.2f} ({number} trials){off}"
    )
    return Finding(f"cost of a stage: {name}", "a power of each (no figure known)", measured, mine)


def _size(line: Line) -> str:
    setting = line["setting"]
    return f"(b, m, n) = ({setting['b']}, {setting['m']}, {setting['n']})"


def draw(lines: list[Line], folder: Path) -> None:
    """Measured against modelled, memory against the size of the gradient, rates against devices."""
    figure, axes = plt.subplots(1, 3, figsize=(17, 5), layout="constrained")
    _draw_fits(axes[0], lines)
    problems = [line for line in claims.of(lines) if line["setting"]["kind"] in SIZES]
    gradient = [8 * line["setting"]["m"] * line["setting"]["n"] / 2**30 for line in problems]
    axes[1].plot(gradient, [line["peak_memory_gib"] for line in problems], "o", mfc="white")
    axes[1].set(xlabel="weight gradient in float64, GiB", ylabel="peak memory of the process, GiB", xscale="log")
    axes[1].set_ylim(bottom=0)
    shared = claims.of(lines, kind="devices")
    counts = [line["setting"]["devices"] for line in shared]
    axes[2].plot(counts, [line["candidates_per_second"] for line in shared], "o-")
    axes[2].set(xlabel="devices of one CPU, as many chains each", ylabel="candidates a second", xticks=counts)
    axes[2].set_ylim(bottom=0)
    for axis in axes:
        axis.grid(alpha=0.3)
    figure.savefig(folder / f"{NAME}.png", dpi=100)
    plt.close(figure)


def _draw_fits(axis: Axes, lines: list[Line]) -> None:
    """Measured costs over modelled ones; those that the fit has not seen are filled."""
    for name, stage in STAGES.items():
        fitted = fit(stage, lines)
        if fitted is None:
            continue
        mine = claims.of(lines, kind=stage.kind)
        model, cost = [modelled(stage, fitted, line) for line in mine], [cost_of(stage, line) for line in mine]
        (points,) = axis.plot(model, cost, "o", mfc="white", label=f"{name}, {stage.unit}")
        unseen = claims.of(mine, use="check")
        at = [modelled(stage, fitted, line) for line in unseen]
        axis.plot(at, [cost_of(stage, line) for line in unseen], "o", color=points.get_color())
    axis.axline((1e-3, 1e-3), slope=1, color="black", lw=0.8)
    axis.set(xscale="log", yscale="log", xlabel="modelled: $c\\, b^x m^y n^z$", ylabel="measured")
    axis.set_title("filled: not seen by the fit", fontsize=10)
    axis.legend(fontsize=8)


CLAIM = Claim(NAME, settings, trial, findings, draw)


if __name__ == "__main__":
    claims.main(CLAIM, __doc__)
