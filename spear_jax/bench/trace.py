"""Where the time of a call goes: JAX's profiler, read stage by stage (`stages.stage`)."""

from __future__ import annotations

import tempfile
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from spear_jax.bench.programs import Work, work_of_programs
from spear_jax.stages import PREFIX

# What is in no stage.
REST = "rest"
NANO = 1e-9


class Share(NamedTuple):
    """What one stage took of a call, stages inside it left out.

    Attributes:
        stage: its name.
        calls: how often it began.
        seconds: of wall clock.
        device: seconds of these in which a compiled program ran.
        flops: operations in matrix products of compiled programs.
        moved: bytes that compiled programs read and wrote.
        copied: bytes between host and device; 0 where both have one memory.
    """

    stage: str
    calls: int
    seconds: float
    device: float
    flops: float
    moved: float
    copied: float

    @property
    def host(self) -> float:
        """Seconds in which none ran."""
        return self.seconds - self.device


class _Span(NamedTuple):
    """Part of the call's time, in nanoseconds."""

    stage: str
    start: float
    end: float


def traced(call: Callable[[], Any]) -> list[Share]:
    """Run a call under the profiler, and say what each stage took, the longest first.

    Args:
        call: that compiles nothing any more, and waits for what it starts.
    """
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level, options.host_tracer_level = 0, 2
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options), jax.profiler.TraceAnnotation(PREFIX + REST):
            call()
        (file,) = Path(folder).rglob("*.xplane.pb")
        planes = list(jax.profiler.ProfileData.from_file(str(file)).planes)
        return _shares(planes, work_of_programs())


def _shares(planes: Sequence[Any], works: dict[tuple[str, str], Work]) -> list[Share]:
    marks, operations, copies = [], [], []
    for plane in planes:
        is_device = plane.name.startswith("/device:")
        for line in plane.lines:
            for event in line.events:
                if event.name.startswith(PREFIX):
                    marks.append(_Span(event.name.removeprefix(PREFIX), event.start_ns, event.end_ns))
                    continue
                told = dict(event.stats)
                if "hlo_module" in told:
                    place = (str(told["hlo_module"]), str(told.get("hlo_op", event.name)))
                    operations.append((event.start_ns, event.end_ns, works.get(place, Work(0, 0))))
                elif is_device and "memcpy" in event.name.lower():
                    copies.append((event.start_ns, event.end_ns, float(told.get("size", 0))))
    spans, busy = _own_time(marks), _union([(start, end) for start, end, _ in operations])
    at = _Finder(spans)
    done: dict[str, np.ndarray] = {mark.stage: np.zeros(3) for mark in marks}
    for start, _, work in operations:
        done[at(start)] += (work.flops, work.moved, 0)
    for start, _, size in copies:
        done[at(start)] += (0, 0, size)
    shares = []
    for name, (flops, moved, copied) in done.items():
        mine = [span for span in spans if span.stage == name]
        seconds = NANO * sum(span.end - span.start for span in mine)
        device = NANO * sum(_overlap(span, busy) for span in mine)
        calls = sum(mark.stage == name for mark in marks)
        shares.append(Share(name, calls, seconds, device, float(flops), float(moved), float(copied)))
    return sorted(shares, key=lambda share: -share.seconds)


def _own_time(marks: Iterable[_Span]) -> list[_Span]:
    """The time line cut into spans of the innermost stage, in order."""
    spans: list[_Span] = []
    open_: list[_Span] = []
    now = 0.0

    def until(time: float) -> None:
        nonlocal now
        if open_ and time > now:
            spans.append(_Span(open_[-1].stage, now, time))
        now = time

    for mark in sorted(marks, key=lambda mark: (mark.start, -mark.end)):
        while open_ and open_[-1].end <= mark.start:
            until(open_[-1].end)
            open_.pop()
        until(mark.start)
        open_.append(mark)
    while open_:
        until(open_[-1].end)
        open_.pop()
    return spans


class _Finder:
    """The stage at a time; what a device does after the call's end is the last one's."""

    def __init__(self, spans: list[_Span]) -> None:
        self._spans, self._starts = spans, [span.start for span in spans]

    def __call__(self, time: float) -> str:
        return self._spans[max(bisect_right(self._starts, time) - 1, 0)].stage


def _union(intervals: list[tuple[float, float]]) -> np.ndarray:
    """(k, 2) the same time in disjoint intervals, in order."""
    joined: list[list[float]] = []
    for start, end in sorted(intervals):
        if joined and start <= joined[-1][1]:
            joined[-1][1] = max(joined[-1][1], end)
        else:
            joined.append([start, end])
    return np.asarray(joined).reshape(-1, 2)


def _overlap(span: _Span, busy: np.ndarray) -> float:
    """Nanoseconds of a span in which something ran."""
    first = np.searchsorted(busy[:, 1], span.start, side="right")
    last = np.searchsorted(busy[:, 0], span.end, side="left")
    inside = np.clip(busy[first:last], span.start, span.end)
    return float(np.sum(inside[:, 1] - inside[:, 0]))
