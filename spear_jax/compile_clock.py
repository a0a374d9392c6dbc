"""Seconds that JAX spent on compiling, told apart from the seconds that the compiled programs ran."""

from __future__ import annotations

import jax

EVENTS = ("/jax/core/compile/jaxpr_to_mlir_module_duration", "/jax/core/compile/backend_compile_duration")
_total = 0.0
_is_listening = False


def compile_seconds() -> float:
    """Seconds of lowering and compilation in this process since the first call; differences are what counts."""
    global _is_listening
    if not _is_listening:
        jax.monitoring.register_event_duration_secs_listener(_listen)
        _is_listening = True
    return _total


def _listen(event: str, duration_secs: float, **_: str | int) -> None:
    global _total
    if event in EVENTS:
        _total += duration_secs
