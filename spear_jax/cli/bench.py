"""``spear-jax bench``: rates of the sampler, and where the time of a search goes, on whatever device is there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import jax
import typer

from spear_jax.audit import record
from spear_jax.bench.problems import PROBLEMS, problem_of
from spear_jax.bench.sampling import bench_sampling, measure_peak
from spear_jax.bench.search import Timing, bench_search
from spear_jax.cli import options
from spear_jax.cli.output import emit, table
from spear_jax.errors import SpearError

# Stages that take less of the time are not shown.
LEAST_SHOWN = 0.002


def register(app: typer.Typer) -> None:
    """Add the group of benchmarks to the app."""
    group = typer.Typer(help="Measure rates on this machine.")
    group.callback()(lambda: None)
    group.command("sampling")(sampling)
    group.command("search")(search)
    app.add_typer(group, name="bench")


def sampling(
    out_features: Annotated[int, typer.Option("--width", help="Rows m of the left factor.", min=3)] = 200,
    batch_size: Annotated[int, typer.Option(help="Samples in the batch, the rank r of its gradient.", min=2)] = 20,
    rank: Annotated[int | None, typer.Option(hidden=True, help="Old name of --batch-size.", min=2)] = None,
    chunk_size: Annotated[int | None, typer.Option(help="Candidates of the flat kernel at once.", min=1)] = None,
    repeats: Annotated[int, typer.Option(help="Timed runs, of which the median counts.", min=1)] = 5,
    seed: options.Seed = 0,
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
    as_json: options.Json = False,
) -> None:
    """Measure candidates per second.

    Pivot walk and flat kernel of the search against batched SVD, LU and QR, in float32, on a planted problem.
    """
    batch_size = batch_size if rank is None else rank
    if batch_size > out_features:
        raise SpearError(
            f"--batch-size is {batch_size} but --width is {out_features}; a rank is at most the number of rows."
        )
    rates = bench_sampling(out_features, batch_size, chunk_size=chunk_size, repeats=repeats, seed=seed)
    peak = measure_peak()
    by_name = {rate.name: rate for rate in rates}
    lu = by_name["lu"].candidates_per_second
    share = lambda rate: rate.candidates_per_second * rate.operations / peak.flops
    content: dict[str, Any] = {
        "flat_candidates_per_second": by_name["flat"].candidates_per_second,
        "effective_candidates_per_second": max(rate.effective_per_second for rate in rates),
        "width": out_features,
        "rank": batch_size,
        "device_kind": jax.devices()[0].device_kind,
        "peak": peak._asdict(),
        "rates": [
            rate._asdict() | {"effective_over_lu": rate.effective_per_second / lu, "share_of_peak": share(rate)}
            for rate in rates
        ],
        "versions": record.versions(),
    }
    if out is not None:
        record.write_json(out, content)
    rows = [
        (
            rate.name,
            f"{rate.candidates_per_second:,.0f}",
            f"{rate.effective_per_second:,.0f}",
            f"{rate.effective_per_second / lu:.1f}",
            f"{rate.operations:,.0f}",
            f"{100 * share(rate):.1f} %",
            f"{rate.compile_seconds:.1f}",
        )
        for rate in rates
    ]
    header = ("way", "candidates/s", "effective/s", "over LU", "operations", "of peak", "compile s")

    def tell() -> None:
        table(rows, header=header)
        typer.echo(f"peak: {peak.flops:.3g} float32 operations/s, copy {peak.bytes_per_second:.3g} B/s")

    emit(content, as_json, tell)


def search(
    problems: Annotated[
        list[str] | None, typer.Argument(help=f"Of {', '.join(PROBLEMS)}; the first where none is named.")
    ] = None,
    repeats: Annotated[int, typer.Option(help="Timed runs after the first, of which the median counts.", min=1)] = 3,
    seed: options.Seed = 0,
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Picture to write.")] = None,
    as_json: options.Json = False,
) -> None:
    """Show where the time of a reconstruction goes.

    Photos of the demo behind three hidden layers, the whole update given: seconds on device and host by stage, and how
    near compiled programs come to this device's matrix products and copies (above 1 where a cache serves them).
    """
    for name in problems or ():
        problem_of(name)  # before the first one is timed
    timings = []
    for name in problems or list(PROBLEMS)[:1]:
        timings.append(bench_search(name, repeats=repeats, seed=seed))
        if not as_json:
            _tell(timings[-1])
    content = {"searches": [timing.to_json() for timing in timings], "versions": record.versions()}
    if out is not None:
        record.write_json(out, content)
    if plot is not None:
        # Not at the start of every command: Matplotlib writes to the user's cache folder when it is imported.
        from spear_jax.bench.search_plot import plot_timings

        plot_timings(timings, plot)
    emit(content, as_json, lambda: None)


def _tell(timing: Timing) -> None:
    told = timing.to_json()
    typer.echo(
        f"{timing.problem}: {timing.certified} of {timing.batch_size} certified in {told['seconds']:.2f} s "
        f"(first call: {timing.compile_seconds:.1f} s of compiling more)"
    )
    rows = [
        (
            stage["stage"],
            f"{stage['calls']}",
            f"{stage['seconds']:.3f}",
            f"{stage['device']:.3f}",
            f"{stage['host']:.3f}",
            f"{stage['copied'] / 1e6:.1f}",
            f"{100 * stage['share_of_gemm']:.0f} %",
            f"{100 * stage['share_of_copy']:.0f} %",
        )
        for stage in told["stages"]
        if stage["seconds"] >= LEAST_SHOWN * told["seconds"]
    ]
    header = ("stage", "calls", "seconds", "device", "host", "MB between", "of gemm", "of copy")
    table(rows, header=header)
