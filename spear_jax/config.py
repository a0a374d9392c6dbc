"""The one static argument of a reconstruction: a frozen, checked configuration."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

from spear_jax.activations import named
from spear_jax.errors import SpearError

REGIMES = ("auto", "centred", "skewed")
METHODS = ("auto", "dictionary", "sampling", "span")
SAMPLERS = ("auto", "walk", "flat")
MAPPERS = ("shard_map", "pmap")


class Schedule(NamedTuple):
    """One way to run the EM from a random start.

    Attributes:
        is_adaptive: whether each column has its own rho, chosen by likelihood, or all follow one ramp.
        data_share: weight of pre-activations regressed from the responsibilities against the tied ones.
        sharpness: power of the column weights in the orthogonalisation.
        rho_start, rho_end: the ramp, or the cap's in the adaptive mode.
        iterations: EM steps.
    """

    is_adaptive: bool
    data_share: float
    sharpness: float
    rho_start: float = 0.5
    rho_end: float = 0.97
    iterations: int = 200


def _require(condition: bool, name: str, got: object, wanted: str) -> None:
    if not condition:
        raise SpearError(f"ReconstructConfig.{name} is {got!r}; expected {wanted}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DictionaryConfig:
    """The dictionary method's schedule; every default is from the measurements in experiments/RESULTS.md.

    Attributes:
        full_rounds: rounds in all dimensions before the search moves to the missing ones.
        full_schedules: of the full rounds, in turn: starts that fail under one schedule succeed under another. The
            first is short: at m = 8 b, 60 steps find all; near m = 4 b more help, up to 200.
        starts: random starts of a subspace round at most, a batch dimension.
        subspace_schedules: of the subspace rounds, in turn.
        max_rounds: rounds of both kinds before the search gives up.
        regime: ``"centred"``, ``"skewed"`` (the EM sees neurons of low offset only, `low_rows`), or ``"auto"``, which
            looks at the gradient.
        row_fractions: share of the live rows that the EM of a skewed round sees, in turn.
        skewed_schedules: of the full rounds of a skewed batch, in turn.
    """

    full_rounds: int = 3
    full_schedules: tuple[Schedule, ...] = (
        Schedule(False, 0.4, 2.0, iterations=80),
        Schedule(True, 0.1, 1.0),
        Schedule(True, 0.4, 1.0),
        Schedule(False, 0.4, 1.0),
    )
    starts: int = 32
    subspace_schedules: tuple[Schedule, ...] = (
        Schedule(False, 0.4, 1.0, 0.5, 0.95, 120),
        Schedule(True, 0.7, 1.0, 0.5, 0.9, 120),
        Schedule(False, 0.7, 1.0, 0.5, 0.9, 120),
        Schedule(False, 0.2, 2.0, 0.5, 0.95, 120),
    )
    max_rounds: int = 40
    regime: str = "auto"
    row_fractions: tuple[float, ...] = (0.6, 0.5, 0.7, 0.45, 0.8)
    skewed_schedules: tuple[Schedule, ...] = (
        Schedule(False, 0.4, 1.0),
        Schedule(False, 0.0, 1.0),
        Schedule(False, 0.4, 2.0),
    )

    def __post_init__(self) -> None:
        _require(self.regime in REGIMES, "dictionary.regime", self.regime, f"one of {', '.join(REGIMES)}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpanConfig:
    """The span method's budget.

    Attributes:
        starts: random starts of a round, in blocks of 32; twice and four times as many after rounds that found nothing.
        dry_rounds: rounds in a row without a find after which the search gives up.
        max_rounds: rounds before it gives up anyway.
    """

    starts: int = 64
    dry_rounds: int = 6
    max_rounds: int = 1000

    def __post_init__(self) -> None:
        for name in ("starts", "dry_rounds", "max_rounds"):
            _require(getattr(self, name) >= 1, f"span.{name}", getattr(self, name), "a positive integer")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReconstructConfig:
    """How a reconstruction searches, when it gives up, and over which devices it runs.

    Attributes:
        method: how samples are proposed: ``"sampling"`` (SPEAR), ``"dictionary"`` (all directions together), ``"span"``
            (roots of what the next layer saw, for any activation), or ``"auto"``, which picks one and says why.
        rank: number of directions to look for; ``None`` reads it off the singular values of the weight gradient.
        num_examples: batch size as the client reports it, if it does; only the status depends on it.
        max_candidates: budget of the sampler's own candidates over all rounds (for one shard: of that shard); a walk
            tries 10^9 a second on two cores, the flat sampler 3 10^5.
        max_seconds: time budget of the search in seconds, ``None`` for no limit. Checked between rounds, so two
            runs that stop on it need not stop at the same candidate.
        sampler: how candidates are drawn: ``"walk"`` (pivot walks), ``"flat"`` (independent submatrices), or
            ``"auto"``, which walks where the expected search is long and the noise small.
        round_size: candidates per compiled round over all devices, a power of two; ``None`` picks it from the
            expected number of candidates. A walk rounds it up to a power of two of chains, 32 at least.
        chunk_size: candidates, or chains of a walk, that a device holds at once, a power of two; ``None`` picks it.
            Memory and speed only, never the result.
        hits_capacity: candidates per round that may pass the float32 filter before the rest of the round's is dropped.
        pool_capacity: survivors kept after duplicates are merged; ``None`` is ``8 * rank + 64``.
        false_rejection: probability with which the zero-count threshold may reject a true direction.
        zero_share: probability that an entry of the pre-activation gradient is zero, in the model behind the
            threshold and the cost estimate. One half for centred inputs.
        mapper: how a round is spread over devices, ``"shard_map"`` or ``"pmap"``. The candidates are the same.
        num_devices: devices to use, ``None`` for all of them.
        shard: ``(i, n)``: this run draws only rounds ``i, i + n, i + 2n, ...`` of the global sequence.
        dictionary: schedule of the dictionary method.
        activation: between the observed layer and the next one, by name, ``"gelu"`` or ``"leaky_relu(0.2)"``; None
            where it is not known: then the equations of the two layers decide, and it is ReLU where there are none.
        span: budget of the span method.
    """

    method: str = "auto"
    rank: int | None = None
    num_examples: int | None = None
    max_candidates: int = 2**42
    max_seconds: float | None = None
    sampler: str = "auto"
    round_size: int | None = None
    chunk_size: int | None = None
    hits_capacity: int = 1024
    pool_capacity: int | None = None
    false_rejection: float = 1e-5
    zero_share: float = 0.5
    mapper: str = "shard_map"
    num_devices: int | None = None
    shard: tuple[int, int] = (0, 1)
    dictionary: DictionaryConfig = DictionaryConfig()
    activation: str | None = None
    span: SpanConfig = SpanConfig()

    def __post_init__(self) -> None:
        _require(self.method in METHODS, "method", self.method, f"one of {', '.join(METHODS)}")
        _require(self.sampler in SAMPLERS, "sampler", self.sampler, f"one of {', '.join(SAMPLERS)}")
        _require(self.mapper in MAPPERS, "mapper", self.mapper, f"one of {', '.join(MAPPERS)}")
        _require(self.rank is None or self.rank >= 1, "rank", self.rank, "a positive integer or None")
        _require(
            self.num_examples is None or self.num_examples >= 1, "num_examples", self.num_examples, "positive or None"
        )
        for name in ("max_candidates", "hits_capacity"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "a positive integer")
        _require(self.max_seconds is None or self.max_seconds > 0, "max_seconds", self.max_seconds, "positive or None")
        for name in ("round_size", "chunk_size"):
            size = getattr(self, name)
            if size is not None:
                _require(1 <= size <= 2**30 and size & (size - 1) == 0, name, size, "a power of two up to 2^30")
        _require(self.pool_capacity is None or self.pool_capacity >= 1, "pool_capacity", self.pool_capacity, "positive")
        _require(0 < self.false_rejection < 1, "false_rejection", self.false_rejection, "strictly between 0 and 1")
        _require(0 < self.zero_share < 1, "zero_share", self.zero_share, "strictly between 0 and 1")
        _require(self.num_devices is None or self.num_devices >= 1, "num_devices", self.num_devices, "positive or None")
        if self.activation is not None:
            named(self.activation)
        index, count = self.shard
        _require(0 <= index < count, "shard", self.shard, "(i, n) with 0 <= i < n")

    def after(self, seconds: float) -> ReconstructConfig:
        """The configuration with what is left of its time budget, an instant at least."""
        if self.max_seconds is None:
            return self
        return dataclasses.replace(self, max_seconds=max(self.max_seconds - seconds, 1e-3))

    def to_json(self) -> dict[str, Any]:
        """The configuration as a JSON-ready dictionary."""
        return dataclasses.asdict(self) | {"shard": list(self.shard)}
