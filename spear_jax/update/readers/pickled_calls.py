"""What the globals of a pickle stand for: descriptions of PyTorch's and JAX's arrays, made of plain values.

`look_up` is the only door: a name is one of these functions, a name that nobody will call (`Opaque`), or refused.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jax.numpy import bfloat16

from spear_jax.errors import TensorFileError
from spear_jax.update.readers.pickled_numpy import NUMPY_CALLS, PickledArray, expect, shape_of, shown
from spear_jax.update.readers.trees import Opaque, Unreadable

SAVE_AGAIN = "load it with PyTorch where you trust it and save torch.save(model.state_dict(), path)"
_DTYPES = {
    "Double": np.float64, "Float": np.float32, "Half": np.float16, "BFloat16": bfloat16, "Long": np.int64,
    "Int": np.int32, "Short": np.int16, "Char": np.int8, "Byte": np.uint8, "Bool": np.bool_,
}  # fmt: skip
_STORAGES = {f"torch.{name}Storage": np.dtype(dtype) for name, dtype in _DTYPES.items()}
# Storages of newer tensors count bytes; their dtype is said beside them.
_UNTYPED = frozenset(("torch.storage.UntypedStorage", "torch.UntypedStorage"))
_TYPED_BY_NAME = {f"torch.{np.dtype(kind).name}": np.dtype(kind) for kind in (np.uint16, np.uint32, np.uint64)}
# Modules and functions whose only use in a file of tensors is to run something.
_RUNS = frozenset(
    "os posix nt subprocess sys shutil socket importlib runpy pty code codeop ctypes pickle _pickle commands operator "
    "webbrowser multiprocessing threading asyncio timeit pdb bdb cProfile profile".split()
)
_HARMLESS_BUILTINS = frozenset(
    "set frozenset list dict tuple int float bool str bytes bytearray complex slice range object type Ellipsis "
    "NotImplemented".split()
)


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

    @property
    def shape(self) -> tuple[int, ...]:
        """Another name of ``size``."""
        return self.size


@dataclasses.dataclass(frozen=True)
class Global:
    """The name of a function or class that this module knows."""

    name: str


def look_up(module: str, name: str) -> Global | Opaque:
    """What a global of the pickle stands for.

    Raises:
        TensorFileError: what could only run something.
    """
    whole = f"{module}.{name}"
    if whole in _CALLS or whole in _STORAGES or whole in _UNTYPED:
        return Global(whole)
    root = module.split(".")[0]
    is_builtin = root in ("builtins", "__builtin__") and name not in _HARMLESS_BUILTINS
    is_function = whole in ("types.FunctionType", "types.CodeType", "torch.load") or module.startswith(
        ("torch.hub", "torch.jit", "torch.package")
    )
    # A class inside a class has a dotted name too, but not one that ends like a method.
    is_attribute = "." in name and not name.split(".")[-1][:1].isupper()
    if root in _RUNS or (is_builtin and not name.endswith(("Error", "Exception"))) or is_function or is_attribute:
        raise TensorFileError(
            f"the file asks for {shown(whole)}, which no checkpoint of a model needs; refused: {SAVE_AGAIN}."
        )
    return Opaque(whole)


def call(function: Global, arguments: tuple[Any, ...]) -> Any:
    """The description that a known function gives.

    Raises:
        TensorFileError: arguments that the function is never given.
        TypeError, ValueError, LookupError: damaged.
    """
    try:
        return _CALLS[function.name](*arguments)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{function.name} is called with what it is never given, and refused: {error}") from error


def persistent(tag: str, kind: Global | Opaque, key: str, location: str, numel: Any = None, view: Any = None) -> Any:
    """All of a storage; ``location`` is the device it was on, ``view`` a part of it that old files know.

    Old files also name classes so, with their source, which is passed over.
    """
    if tag == "module" and isinstance(kind, Opaque):
        return kind
    if tag != "storage" or view is not None:
        raise TypeError("a persistent id that is no whole storage")
    if isinstance(kind, Opaque):
        return Unreadable(_unreadable(kind.name))
    dtype = np.dtype(np.uint8) if expect(kind, Global).name in _UNTYPED else _STORAGES[kind.name]
    return StoredTensor(expect(key, str), dtype, expect(numel, int))


def _unreadable(name: str) -> str:
    kind = "is a complex tensor" if "omplex" in name else "asks for"
    return f"{kind} ({shown(name)}), no real numbers" if kind != "asks for" else f"asks for {shown(name)}"


def _ordered_dict(items: Any = ()) -> dict[Any, Any]:
    if items not in ((), []):
        raise TypeError("items where none belong")
    return {}


def _default_dict(factory: Any = None) -> dict[Any, Any]:
    return {}


def _tensor(
    storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...],
    requires_grad: bool, hooks: Any, metadata: Any = None,
) -> StoredTensor | Unreadable:  # fmt: skip
    """As ``torch._utils._rebuild_tensor_v2``; a lazily negated tensor, which metadata would tell, is not read."""
    if isinstance(storage, Unreadable):
        return storage
    if metadata:
        return Unreadable("has metadata (conjugated or negated lazily); call .resolve_neg() on it")
    return dataclasses.replace(
        expect(storage, StoredTensor), offset=expect(offset, int), size=shape_of(size), stride=shape_of(stride)
    )


def _first_tensor(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> Any:
    """As ``torch._utils._rebuild_tensor``, which the oldest files name."""
    return _tensor(storage, offset, size, stride, False, None)


def _tensor_v3(
    storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...],
    requires_grad: bool, hooks: Any, dtype: Any, metadata: Any = None,
) -> StoredTensor | Unreadable:  # fmt: skip
    """As ``torch._utils._rebuild_tensor_v3``, for the dtypes that have no storage class of their own."""
    known = _TYPED_BY_NAME.get(dtype.name) if isinstance(dtype, Opaque) else None
    if known is None or isinstance(storage, Unreadable):
        return Unreadable(f"is of {shown(str(getattr(dtype, 'name', dtype)))}, which no gradient can be read off")
    counted = dataclasses.replace(expect(storage, StoredTensor), dtype=known, numel=storage.numel // known.itemsize)
    return _tensor(counted, offset, size, stride, requires_grad, hooks, metadata)


def _parameter(tensor: Any, requires_grad: bool, hooks: Any, state: Any = None) -> Any:
    return tensor if isinstance(tensor, Unreadable) else expect(tensor, StoredTensor)


def _subclass(function: Any, kind: Any, arguments: Any, state: Any = None) -> Any:
    """As ``torch._tensor._rebuild_from_type_v2``: the tensor itself, whatever its class adds."""
    if isinstance(function, Opaque):
        return Unreadable(f"is made by {shown(function.name)}, which is not run")
    return call(expect(function, Global), expect(arguments, tuple))


def _sparse(layout: Any, parts: tuple[Any, ...]) -> Unreadable:
    expect(parts, tuple)
    return Unreadable("is a sparse tensor; save it dense, .to_dense()")


def _inline_storage(content: Any) -> Unreadable:
    return Unreadable("is a PyTorch tensor in a plain pickle; save it with torch.save instead of pickle.dump")


def _quantised(*arguments: Any) -> Unreadable:
    return Unreadable("is a quantised tensor; save it with .dequantize()")


def _elsewhere(*arguments: Any) -> Unreadable:
    return Unreadable("has no elements in the file (a meta, nested or wrapped tensor)")


def _jax_array(function: Any, arguments: Any, state: Any, abstract: Any = None) -> Any:
    """As ``jax._src.array._reconstruct_array``: the NumPy array inside."""
    made = call(expect(function, Global), expect(arguments, tuple))
    if isinstance(made, PickledArray) and state is not None:
        made.set_state(expect(state, tuple))
    return made


_CALLS: dict[str, Any] = {
    "collections.OrderedDict": _ordered_dict,
    "collections.defaultdict": _default_dict,
    "torch.Size": shape_of,
    "torch._utils._rebuild_tensor": _first_tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _subclass,
    "torch._utils._rebuild_sparse_tensor": _sparse,
    "torch.storage._load_from_bytes": _inline_storage,
    "torch._utils._rebuild_qtensor": _quantised,
    "torch._utils._rebuild_nested_tensor": _elsewhere,
    "torch._utils._rebuild_meta_tensor_no_storage": _elsewhere,
    "torch._utils._rebuild_wrapper_subclass": _elsewhere,
    "jax._src.array._reconstruct_array": _jax_array,
} | NUMPY_CALLS
