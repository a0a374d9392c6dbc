"""An attack's stages: their names for JAX's profiler, which `bench.search` reads off a trace, and their seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import jax

Function = TypeVar("Function", bound=Callable[..., Any])
OnStage = Callable[[str], None]

# Tells our marks from all else that a trace holds.
PREFIX = "stage: "


def stage(name: str) -> Callable[[Function], Function]:
    """A decorator: what the function takes is the stage's, less what stages inside it take; free while nobody traces.

    Args:
        name: of the stage, in lower case; several functions may share it.
    """
    return partial(jax.profiler.annotate_function, name=PREFIX + name)  # pyright: ignore[reportReturnType]


class StageClock:
    """Seconds by stage, each of which is announced in a sentence."""

    def __init__(self, on_stage: OnStage | None) -> None:
        self._on_stage, self._seconds = on_stage, {}
        self._name, self._started = "", time.perf_counter()

    def enter(self, name: str, sentence: str) -> None:
        """Begin a stage, which ends the one before it."""
        self.seconds()
        self._name = name
        if self._on_stage is not None:
            self._on_stage(sentence)

    def seconds(self) -> dict[str, float]:
        """Seconds of all stages up to now."""
        now = time.perf_counter()
        if self._name:
            self._seconds[self._name] = self._seconds.get(self._name, 0.0) + now - self._started
        self._started = now
        return dict(self._seconds)
