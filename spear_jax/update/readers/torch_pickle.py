"""Pickles read by a machine that cannot run anything.

``pickle`` itself imports and calls whatever a file names. Here ``pickletools`` only splits the pickle into its
instructions, and those that data are made of are carried out on lists, dicts and strings. A global is nothing but a
name: the few in `pickled_calls` stand for functions of this package that describe a tensor, an object of any other
class is passed over unmade (`Opaque`), and what no checkpoint of a model needs (``os.system``, ``eval``) is refused by
name. (PyTorch's own ``weights_only`` reader works alike.)
"""

from __future__ import annotations

import mmap
import pickletools
from typing import Any

from spear_jax.errors import TensorFileError
from spear_jax.update.readers import pickled_calls
from spear_jax.update.readers.pickled_calls import SAVE_AGAIN, Global, StoredTensor
from spear_jax.update.readers.pickled_numpy import PickledArray, PickledDtype, expect
from spear_jax.update.readers.trees import Opaque, Unreadable

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_VALUES = frozenset(
    "BININT BININT1 BININT2 LONG1 LONG4 BINFLOAT BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES "
    "BINBYTES8 BYTEARRAY8 BINSTRING SHORT_BINSTRING".split()
)
# Keys of optimiser states are small; larger integers can be chosen to collide in a dict, and tuples to hash for ever.
_MAX_KEY = 2**31


def load(pickle: bytes | mmap.mmap, *, max_instructions: int) -> Any:
    """What a pickle describes, of dicts, lists, tuples, scalars, tensors, `Opaque` objects and `Unreadable` tensors.

    Args:
        pickle: protocol 2 to 5; of a mapped file, the pickle at its position, which ends up behind it.
        max_instructions: bound of the work and, at up to some hundred bytes each, of the memory.

    Raises:
        TensorFileError: a global or an instruction that no checkpoint needs, more instructions.
        ValueError, LookupError, TypeError: damaged.
    """
    machine = _Machine()
    for count, (opcode, argument, _) in enumerate(pickletools.genops(pickle)):  # pyright: ignore[reportArgumentType]
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
            case _ if name in _VALUES:
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
                _held(self.stack[-1], list).extend(items)
            case "SETITEM" | "SETITEMS":
                items = self._pop(2) if name == "SETITEM" else self._pop_to_mark()
                _set_items(_held(self.stack[-1], dict), items)
            case _:
                self._step_on_objects(name, argument)

    def _step_on_objects(self, name: str, argument: Any) -> None:
        match name:
            case "GLOBAL":
                self.stack.append(pickled_calls.look_up(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                self.stack.append(pickled_calls.look_up(*(expect(part, str) for part in self._pop(2))))
            case "BINPERSID":
                self.stack.append(pickled_calls.persistent(*expect(self.stack.pop(), tuple)))
            case "REDUCE":
                function, arguments = self._pop(2)
                self.stack.append(_reduce(function, expect(arguments, tuple)))
            case "NEWOBJ" | "NEWOBJ_EX":
                kind, arguments = self._pop(2 if name == "NEWOBJ" else 3)[:2]
                if isinstance(kind, Global):
                    raise TensorFileError(
                        f"the pickle uses {name} on {kind.name}, which no checkpoint needs; refused: {SAVE_AGAIN}."
                    )
                self.stack.append(_reduce(expect(kind, Opaque), expect(arguments, tuple)))
            case "BUILD":
                state = self.stack.pop()
                _build(self.stack[-1], state)
            case "EMPTY_SET":
                self.stack.append(Opaque("builtins.set"))
            case "ADDITEMS":
                self._pop_to_mark()
                expect(self.stack[-1], Opaque)
            case "FROZENSET":
                self._pop_to_mark()
                self.stack.append(Opaque("builtins.frozenset"))
            case _:
                raise TensorFileError(f"the pickle uses {name}, which no checkpoint needs; refused: {SAVE_AGAIN}.")

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


def _reduce(function: Any, arguments: tuple[Any, ...]) -> Any:
    """A described tensor of a known function; of any other, an object that is not made."""
    if isinstance(function, Opaque):
        return Opaque(function.name, arguments)
    return pickled_calls.call(expect(function, Global), arguments)


def _build(target: Any, state: Any) -> None:
    """Attributes of an object, which stay with it unread; a dict's (``_metadata``) say nothing about its tensors."""
    if isinstance(target, Opaque):
        target.content = state if target.content in (None, ()) else (target.content, state)
    elif isinstance(target, PickledArray | PickledDtype):
        target.set_state(expect(state, tuple))
    else:
        expect(target, dict)


def _held(target: Any, kind: type) -> Any:
    """The list or dict that items go into: the target itself, or what an object of an unknown class holds."""
    if not isinstance(target, Opaque):
        return expect(target, kind)
    if type(target.content) is not kind:
        target.content = kind()
    return target.content


def _set_items(target: dict[Any, Any], items: list[Any]) -> None:
    for key, value in zip(items[::2], items[1::2], strict=True):
        target[_key(key)] = value


def _key(key: Any) -> str | int:
    """The key of a dict; of those that are neither text nor a small number, their text."""
    if type(key) is str or (type(key) is int and 0 <= key < _MAX_KEY):
        return key
    if key is None or type(key) in (bool, float, bytes) or (type(key) is int and -_MAX_KEY < key < 0):
        return repr(key)
    if type(key) is tuple and all(type(part) in (str, float, bool) or _is_small(part) for part in key):
        return repr(key)
    if isinstance(key, Opaque | StoredTensor | Unreadable):
        return f"<{type(key).__name__} {id(key)}>"
    raise TypeError(f"{type(key).__name__} as key of a dict")


def _is_small(value: Any) -> bool:
    return type(value) is int and abs(value) < _MAX_KEY
