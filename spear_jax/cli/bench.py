"""``spear-jax bench``: rates of the search on whatever device is there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import jax
import typer

from spear_jax import record
from spear_jax.bench import bench_sampling
from spear_jax.cli import options
from spear_jax.cli.output import emit, table


def register(app: typer.Typer) -> None:
    """Add the group of benchmarks to the app."""
    group = typer.Typer(help="Measure rates on this machine.")
    group.callback()(lambda: None)
    group.command("sampling")(sampling)
    app.add_typer(group, name="bench")


def sampling(
    out_features: Annotated[int, typer.Option("--width", help="Rows m of the left factor.", min=3)] = 200,
    rank: Annotated[int, typer.Option(help="Rank r, the batch size.", min=2)] = 20,
    chunk_size: Annotated[int, typer.Option(help="Candidates at once.", min=1)] = 2048,
    repeats: Annotated[int, typer.Option(help="Timed runs, of which the median counts.", min=1)] = 5,
    seed: options.Seed = 0,
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
    as_json: options.Json = False,
) -> None:
    """Measure candidates per second.

    The flat kernel of the search against batched SVD, LU and QR, in float32.
    """
    if rank > out_features:
        raise ValueError(f"--rank is {rank} but --width is {out_features}; a rank is at most the number of rows.")
    rates = bench_sampling(out_features, rank, chunk_size=chunk_size, repeats=repeats, seed=seed)
    flat = rates[0].candidates_per_second
    content: dict[str, Any] = {
        "flat_candidates_per_second": flat,
        "width": out_features,
        "rank": rank,
        "device_kind": jax.devices()[0].device_kind,
        "rates": [rate._asdict() | {"flat_is_faster_by": flat / rate.candidates_per_second} for rate in rates],
        "versions": record.versions(),
    }
    if out is not None:
        record.write_json(out, content)
    rows = [
        (
            rate.name,
            f"{rate.candidates_per_second:,.0f}",
            f"{flat / rate.candidates_per_second:.1f}",
            f"{rate.compile_seconds:.1f}",
        )
        for rate in rates
    ]
    emit(content, as_json, lambda: table(rows, header=("way", "candidates/s", "flat is faster by", "compile s")))
