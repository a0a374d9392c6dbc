"""Names of the attack's stages, for JAX's profiler: `bench.search` reads them off a trace, Perfetto shows them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import jax

Function = TypeVar("Function", bound=Callable[..., Any])

# Tells our marks from all else that a trace holds.
PREFIX = "stage: "


def stage(name: str) -> Callable[[Function], Function]:
    """A decorator: what the function takes is the stage's, less what stages inside it take; free while nobody traces.

    Args:
        name: of the stage, in lower case; several functions may share it.
    """
    return partial(jax.profiler.annotate_function, name=PREFIX + name)  # pyright: ignore[reportReturnType]
