"""NumPy's arrays in a pickle: a dtype, a shape and bytes, put together without calling anything of the file."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from jax.numpy import bfloat16

from spear_jax.update.readers.trees import Opaque, Unreadable


class PickledDtype:
    """A NumPy dtype under way: its name, then its byte order."""

    def __init__(self, name: Any, align: Any = False, copy: Any = True) -> None:
        self.name = name.name.split(".")[-1] if isinstance(name, Opaque) else expect(name, str)
        self.order = "="

    def set_state(self, state: tuple[Any, ...]) -> None:
        """The byte order, of NumPy's nine values."""
        self.order = expect(state[1], str)

    def dtype(self) -> np.dtype | None:
        """The dtype if it is of real numbers."""
        if self.name == "bfloat16":
            return np.dtype(bfloat16)
        if self.name[:1] not in tuple("fiub") or self.order not in ("<", ">", "=", "|"):
            return None
        return np.dtype(self.name).newbyteorder(self.order)  # pyright: ignore[reportArgumentType]


class PickledArray:
    """A NumPy array under way: the pickle names it first and fills it afterwards."""

    def __init__(self) -> None:
        self.value: np.ndarray | Unreadable = Unreadable("is an array that the file does not fill")

    def set_state(self, state: tuple[Any, ...]) -> None:
        """Version, shape, dtype, whether the first index runs fastest, and the bytes."""
        _, size, dtype, is_fortran, content = state
        self.value = _array(content, dtype, size, "F" if is_fortran else "C")

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the array; of one that cannot be read, none."""
        return self.value.shape if isinstance(self.value, np.ndarray) else ()


def expect(value: Any, kind: type) -> Any:
    """The value, if it is of this very class.

    Raises:
        TypeError: it is not.
    """
    if type(value) is not kind:
        raise TypeError(f"{type(value).__name__} where {kind.__name__} belongs")
    return value


def shown(name: str) -> str:
    """A name of the file as a sentence can hold it."""
    return ascii(name[:80])[1:-1]


def shape_of(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """A tuple of integers, checked."""
    return tuple(expect(size, int) for size in expect(sizes, tuple))


def _new_array(kind: Any, size: Any, code: Any) -> PickledArray:
    expect(kind, Opaque)
    return PickledArray()


def _array(content: Any, dtype: Any, size: Any, order: Any) -> np.ndarray | Unreadable:
    known = expect(dtype, PickledDtype).dtype()
    if known is None or isinstance(content, list):
        return Unreadable(f"has dtype {shown(dtype.name)}; expected real numbers")
    size = shape_of((size,) if type(size) is int else size)
    if type(content) not in (bytes, bytearray) or min(size, default=0) < 0:
        raise TypeError(f"{type(content).__name__} where the bytes of an array belong")
    if math.prod(size) * known.itemsize != len(content) or order not in ("C", "F"):
        raise ValueError(f"{len(content)} bytes for an array of shape {size}")
    return np.frombuffer(content, known).reshape(size, order=order).astype(known.newbyteorder("="), copy=False)


def _from_buffer(content: Any, dtype: Any, size: Any, order: Any, axis_order: Any = None) -> PickledArray:
    made = PickledArray()
    made.value = _array(content, dtype, size, order)
    return made


def _scalar(dtype: Any, content: Any = b"") -> PickledArray:
    return _from_buffer(content, dtype, (), "C")


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise ValueError("an encoding that bytes are never pickled in")
    return expect(text, str).encode("latin1")


def _bytes(*arguments: Any) -> bytes:
    if arguments:
        raise TypeError("bytes made of something")
    return b""


NUMPY_CALLS: dict[str, Any] = {
    "numpy.dtype": PickledDtype,
    "_codecs.encode": _encode,
    "builtins.bytes": _bytes,
    "__builtin__.bytes": _bytes,
} | {
    f"{module}.{name}": function
    for module in ("numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric")
    for name, function in (("_reconstruct", _new_array), ("scalar", _scalar), ("_frombuffer", _from_buffer))
}
