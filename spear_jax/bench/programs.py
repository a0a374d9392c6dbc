"""What compiled programs do, operation by operation: multiplications in matrix products, bytes read and written.

Read off the programs' text after XLA has optimised them, as an operation of a trace is one of these lines. A loop's
body is listed once; how often it ran is for the trace to say.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

import jax

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.-]+) = (\S+|\([^=]*\)) ([\w-]+)\((.*)$")
_SHAPE = re.compile(r"\b(pred|bf16|[fsuc]\d+)\[([\d,]*)\]")
_CALLED = re.compile(r"calls=%?([\w.-]+)")
_CONTRACTED = re.compile(r'lhs_contracting_dim(?:s=\{|ensions":\[")([\d,"]*)')
_OPERAND = re.compile(r"%([\w.-]+)")
# Operations that only stand for others, or that read a part of what they are given.
_CONTAINERS = {"while", "conditional", "call", "parameter", "constant", "tuple", "get-tuple-element", "bitcast"}
_PARTIAL = {"dynamic-slice", "gather", "slice"}


class Work(NamedTuple):
    """Of one operation, once.

    Attributes:
        flops: operations in matrix products, two for each multiplication.
        moved: bytes that it reads and writes.
    """

    flops: float
    moved: float


def work_of_programs() -> dict[tuple[str, str], Work]:
    """The work of every operation of the programs that this process holds, by program and operation.

    Programs of one name and different shapes are told apart by nothing in a trace: the largest counts.
    """
    known: dict[tuple[str, str], Work] = {}
    for executable in jax.devices()[0].client.live_executables():
        for module in executable.hlo_modules():
            for name, work in work_of(module.to_string()):
                before = known.get((module.name, name), Work(0, 0))
                known[module.name, name] = max(before, work)
    return known


def work_of(text: str) -> Iterator[tuple[str, Work]]:
    """The work of every operation of one program, containers left out.

    Args:
        text: of the optimised program, as XLA prints it.
    """
    computations = _parse(text)
    inner = {name: float(sum(_flops(line, lines) for line in lines.values())) for name, lines in computations.items()}
    for lines in computations.values():
        for name, line in lines.items():
            if line.kind not in _CONTAINERS:
                called = _CALLED.search(line.rest)
                flops = inner.get(called[1], 0.0) if called and line.kind == "fusion" else _flops(line, lines)
                yield name, Work(flops, _moved(line, lines))


class _Line(NamedTuple):
    """One instruction: the shapes of its result, what it does, and the rest of its text."""

    result: str
    kind: str
    rest: str


def _parse(text: str) -> dict[str, dict[str, _Line]]:
    computations: dict[str, dict[str, _Line]] = {}
    lines: dict[str, _Line] = {}
    for raw in text.splitlines():
        if opened := _COMPUTATION.match(raw):
            lines = computations.setdefault(opened[1], {})
        elif found := _INSTRUCTION.match(raw):
            lines[found[1]] = _Line(found[2], found[3], found[4])
    return computations


def _operands(line: _Line, lines: dict[str, _Line]) -> list[str]:
    """Shapes of the operands."""
    return [lines[name].result for name in _OPERAND.findall(line.rest.split(")")[0]) if name in lines]


def _flops(line: _Line, lines: dict[str, _Line]) -> float:
    is_product = line.kind == "dot" or (line.kind == "custom-call" and "gemm" in line.rest)
    contracted, operands = _CONTRACTED.search(line.rest), _operands(line, lines)
    if not is_product or contracted is None or not operands:
        return 0.0
    result, left = _sizes(line.result)[0], _sizes(operands[0])[0]
    summed = math.prod(left[int(axis)] for axis in re.findall(r"\d+", contracted[1]))
    return 2.0 * math.prod(result) * summed


def _moved(line: _Line, lines: dict[str, _Line]) -> float:
    read = 0.0 if line.kind in _PARTIAL else float(sum(map(_bytes, _operands(line, lines))))
    return read + _bytes(line.result)


def _sizes(shapes: str) -> list[tuple[int, ...]]:
    return [tuple(int(size) for size in sizes.split(",") if size) for _, sizes in _SHAPE.findall(shapes)]


def _bytes(shapes: str) -> float:
    width = lambda kind: 1.0 if kind == "pred" else int(re.sub(r"\D", "", kind)) / 8
    kinds = [kind for kind, _ in _SHAPE.findall(shapes)]
    return float(sum(width(kind) * math.prod(sizes) for kind, sizes in zip(kinds, _sizes(shapes), strict=True)))
