"""The pickle inside a PyTorch file, read by a machine that cannot run anything.

``pickle`` itself imports and calls whatever a file names. Here ``pickletools`` only splits the pickle into its
instructions, and the thirty that a state dict is made of are carried out on lists, dicts and strings. A global is
nothing but a name; the four that may be called stand for functions of this file, and any other is refused by name.
(PyTorch's own ``weights_only`` reader works alike.)
"""

from __future__ import annotations

import dataclasses
import pickletools
from typing import Any

import numpy as np
from jax.numpy import bfloat16

from spear_jax.errors import TensorFileError

SAVE_AGAIN = "load it with PyTorch where you trust it and save torch.save(model.state_dict(), path)"
_STORAGES = {
    "torch.DoubleStorage": np.dtype(np.float64),
    "torch.FloatStorage": np.dtype(np.float32),
    "torch.HalfStorage": np.dtype(np.float16),
    "torch.BFloat16Storage": np.dtype(bfloat16),
    "torch.LongStorage": np.dtype(np.int64),
    "torch.IntStorage": np.dtype(np.int32),
    "torch.ShortStorage": np.dtype(np.int16),
    "torch.CharStorage": np.dtype(np.int8),
    "torch.ByteStorage": np.dtype(np.uint8),
    "torch.BoolStorage": np.dtype(np.bool_),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
# Keys of optimiser states are small; larger integers can be chosen to collide in a dict, and tuples to hash for ever.
_MAX_KEY = 2**31


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor as the pickle describes it: where its elements lie in a storage record, all counted in elements.

    Attributes:
        key: name of the storage record.
        dtype: of its elements.
        numel: elements that the record should hold.
        offset: of the tensor's first element.
        size: shape.
        stride: elements from one index to the next, per dimension.
    """

    key: str
    dtype: np.dtype
    numel: int
    offset: int = 0
    size: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class _Global:
    name: str


def load(pickle: bytes, *, max_instructions: int) -> Any:
    """What a pickle describes, of dicts, lists, tuples, scalars and `StoredTensor`.

    Args:
        pickle: protocol 2 to 5.
        max_instructions: bound of the work and, at up to some hundred bytes each, of the memory.

    Raises:
        TensorFileError: a global or an instruction that no state dict needs, a complex tensor, more instructions.
        ValueError, LookupError, TypeError: damaged.
    """
    machine = _Machine()
    for count, (opcode, argument, _) in enumerate(pickletools.genops(pickle)):
        if count == max_instructions:
            raise TensorFileError(
                f"the pickle has more than {max_instructions} instructions for what the file holds; {SAVE_AGAIN}."
            )
        if opcode.name == "STOP":
            break
        machine.step(opcode.name, argument)
    return machine.stack.pop()


class _Machine:
    """Stack, marks and memo of a pickle, as in the standard library, without its powers."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Carry out one instruction."""
        match name:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                self.marks.append(len(self.stack))
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                self.stack.append(_CONSTANTS[name])
            case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE":
                self.stack.append(_EMPTY[name]())
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE" | "SHORT_BINUNICODE":
                self.stack.append(argument)
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            case "BINGET" | "LONG_BINGET":
                self.stack.append(self.memo[argument])
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                self.stack.append(tuple(self._pop(int(name[-1]))))
            case "TUPLE":
                self.stack.append(tuple(self._pop_to_mark()))
            case "APPEND" | "APPENDS":
                items = self._pop(1) if name == "APPEND" else self._pop_to_mark()
                _expect(self.stack[-1], list).extend(items)
            case "SETITEM" | "SETITEMS":
                items = self._pop(2) if name == "SETITEM" else self._pop_to_mark()
                _set_items(_expect(self.stack[-1], dict), items)
            case "GLOBAL":
                self.stack.append(_global(argument.replace(" ", ".", 1)))
            case "STACK_GLOBAL":
                self.stack.append(_global(".".join(self._pop(2))))
            case "BINPERSID":
                self.stack.append(_storage(*_expect(self.stack.pop(), tuple)))
            case "REDUCE":
                function, arguments = self._pop(2)
                self.stack.append(_call(_expect(function, _Global), _expect(arguments, tuple)))
            case "BUILD":  # the _metadata of a state dict, which says nothing about its tensors
                self.stack.pop()
                _expect(self.stack[-1], dict)
            case _:
                raise TensorFileError(f"the pickle uses {name}, which no state dict needs; refused: {SAVE_AGAIN}.")

    def _pop(self, count: int) -> list[Any]:
        items = self.stack[len(self.stack) - count :]
        if len(items) < count:
            raise IndexError("stack underflow")
        del self.stack[-count:]
        return items

    def _pop_to_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items


def _expect(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{type(value).__name__} where {kind.__name__} belongs")
    return value


def _set_items(target: dict[Any, Any], items: list[Any]) -> None:
    for key, value in zip(items[::2], items[1::2], strict=True):
        if type(key) is not str and not (type(key) is int and 0 <= key < _MAX_KEY):
            raise TypeError(f"{type(key).__name__} as key of a dict")
        target[key] = value


def _global(name: str) -> _Global:
    if name.startswith("torch.Complex"):
        raise TensorFileError(f"it holds a complex tensor ({_shown(name)}), which cannot be read; save real tensors.")
    if name not in _CALLS and name not in _STORAGES:
        raise TensorFileError(f"the file asks for {_shown(name)}, which no state dict needs; refused: {SAVE_AGAIN}.")
    return _Global(name)


def _shown(name: str) -> str:
    return ascii(name[:80])[1:-1]


def _storage(tag: str, kind: _Global, key: str, location: str, numel: int) -> StoredTensor:
    """All of a storage; ``location`` is the device it was on."""
    if tag != "storage":
        raise TypeError("a persistent id that is no storage")
    return StoredTensor(_expect(key, str), _STORAGES[_expect(kind, _Global).name], _expect(numel, int))


def _call(function: _Global, arguments: tuple[Any, ...]) -> Any:
    return _CALLS[function.name](*arguments)


def _ordered_dict() -> dict[Any, Any]:
    return {}


def _shape(sizes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(_expect(size, int) for size in _expect(sizes, tuple))


def _tensor(
    storage: StoredTensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...],
    requires_grad: bool, hooks: Any, metadata: Any = None,
) -> StoredTensor:  # fmt: skip
    """As ``torch._utils._rebuild_tensor_v2``; a lazily negated tensor, which metadata would tell, is refused."""
    if metadata:
        raise TensorFileError(
            f"a tensor has metadata (conjugated or negated lazily); call .resolve_neg() on it, or {SAVE_AGAIN}."
        )
    return dataclasses.replace(
        _expect(storage, StoredTensor), offset=_expect(offset, int), size=_shape(size), stride=_shape(stride)
    )


def _parameter(tensor: StoredTensor, requires_grad: bool, hooks: Any) -> StoredTensor:
    return _expect(tensor, StoredTensor)


_CALLS = {
    "collections.OrderedDict": _ordered_dict,
    "torch.Size": _shape,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
}
