"""Which tensors of a model are dense layers: pairing kernels with biases, and orientation.

Only names and shapes are looked at. A dense layer is a 2-D kernel with the 1-D bias that its name asks for
(`tensor_names`); one without a bias is taken for a layer only where all matrices are then one chain of dense layers.
Flax and Keras store kernels as (in, out), PyTorch as (out, in); the length of the bias decides which it is. Of a square
kernel the other kernels of the model decide if all agree, then the framework, then its name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from spear_jax.errors import UpdateError
from spear_jax.update.layer_order import in_order, is_chain
from spear_jax.update.layer_order import natural_key as natural_key
from spear_jax.update.tensor_names import parse_kernel

LAYOUTS = ("out_in", "in_out")
# In the name of a table that is looked up, not multiplied with.
EMBEDDING = "emb"
_FRAMEWORK_LAYOUT = {
    "pytorch": "out_in",
    "torch": "out_in",
    "equinox": "out_in",
    "flax": "in_out",
    "jax": "in_out",
    "haiku": "in_out",
    "keras": "in_out",
    "tensorflow": "in_out",
}
NO_BIAS = (
    "it has no 1-D {bias} beside it: a layer without bias is read only where all matrices are one chain of layers."
)
OPEN_LAYOUT = "its kernel is square and nothing tells whether it is (out, in) or (in, out): give --layout."


@dataclasses.dataclass(frozen=True)
class DenseLayer:
    """A dense layer as it lies in a bundle.

    Attributes:
        name: common prefix of its tensors, such as ``dense_0``.
        kernel_name: name of the 2-D tensor.
        bias_name: name of the 1-D tensor; None for a layer that adds none.
        in_features: n, inputs of the layer.
        out_features: m, its neurons.
        layout: ``"out_in"`` when the kernel is stored (m, n), ``"in_out"`` when it is stored (n, m).
    """

    name: str
    kernel_name: str
    bias_name: str | None
    in_features: int
    out_features: int
    layout: str

    @property
    def tensor_names(self) -> tuple[str, ...]:
        """Names of the kernel, and of the bias where there is one."""
        return (self.kernel_name,) if self.bias_name is None else (self.kernel_name, self.bias_name)


def find_layers(
    shapes: Mapping[str, tuple[int, ...]],
    *,
    layout: str | None = None,
    framework: str | None = None,
    is_told: bool = False,
) -> tuple[tuple[DenseLayer, ...], tuple[tuple[str, str], ...]]:
    """Pairs kernels with biases and puts the layers in the order data flow through them.

    Args:
        shapes: shape of every tensor by name, in the order of the file.
        layout: ``"out_in"`` or ``"in_out"`` when known; must agree with the bias length where that is telling.
        framework: where the model comes from, for square kernels; unknown names count for nothing.
        is_told: whether the order of the file tells anything of the layers', as for `in_order`.

    Returns:
        The dense layers, first to last, and ``(name, reason)`` for every tensor of two or more dimensions that is none.

    Raises:
        UpdateError: ``layout`` is no layout, or contradicts the length of a bias.
    """
    if layout is not None and layout not in LAYOUTS:
        raise UpdateError(f"layout is {layout!r}; expected one of {', '.join(LAYOUTS)}.")
    layers, skipped, without_bias = [], [], []
    usual = _agreed_layout(shapes) or _FRAMEWORK_LAYOUT.get((framework or "").lower())
    for name, shape in shapes.items():
        if len(shape) > 2:
            skipped.append((name, f"it has {len(shape)} dimensions: a convolution or another layer that is not dense."))
        elif len(shape) == 2:
            found = _pair(name, shapes, layout, usual)
            if not isinstance(found, DenseLayer):
                skipped.append((name, found))
            elif found.bias_name is None:
                without_bias.append(found)
            else:
                layers.append(found)
    if without_bias and not skipped and is_chain(every := in_order([*layers, *without_bias], is_told=is_told)):
        return every, ()
    skipped += [(layer.kernel_name, _no_bias(layer.kernel_name)) for layer in without_bias]
    return in_order(layers, is_told=is_told), tuple(sorted(skipped, key=lambda item: natural_key(item[0])))


def _no_bias(kernel_name: str) -> str:
    """Why a kernel without bias is no layer."""
    parsed = parse_kernel(kernel_name)
    return NO_BIAS.format(bias=parsed.biases[0] if parsed else "bias")


def floating_shapes(tensors: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    """Shape of every floating-point tensor by name: only these can be layers."""
    return {name: tensor.shape for name, tensor in tensors.items() if jnp.issubdtype(tensor.dtype, np.floating)}


def _fitting(shape: tuple[int, ...], bias_shape: tuple[int, ...]) -> list[str]:
    """The layouts of a kernel that fit the bias; both where the kernel is square."""
    return [layout for layout, size in zip(LAYOUTS, shape, strict=True) if bias_shape == (size,)]


def _bias_of(name: str, shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """Name of the 1-D bias beside a kernel, or None."""
    parsed = parse_kernel(name)
    return next((bias for bias in parsed.biases if len(shapes.get(bias, ())) == 1), None) if parsed else None


def _agreed_layout(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """The layout of all kernels that are not square, where they have one and agree."""
    told = set()
    for name, shape in shapes.items():
        bias = _bias_of(name, shapes) if len(shape) == 2 else None
        fitting = _fitting(shape, shapes[bias]) if bias is not None else []
        told |= set(fitting) if len(fitting) == 1 else set()
    return told.pop() if len(told) == 1 else None


def _pair(name: str, shapes: Mapping[str, tuple[int, ...]], told: str | None, usual: str | None) -> DenseLayer | str:
    """The dense layer whose kernel is ``name``, or why it is none."""
    parsed = parse_kernel(name)
    if parsed is None:
        return "it is called neither kernel nor weight, so no bias can be paired with it."
    bias_name, (rows, columns) = _bias_of(name, shapes), shapes[name]
    if bias_name is None:
        layout = None if EMBEDDING in name.lower() else told or usual or parsed.layout
        return _no_bias(name) if layout is None else _layer(parsed.layer, name, None, (rows, columns), layout)
    fitting = _fitting((rows, columns), shapes[bias_name])
    if not fitting:
        return f"its shape {(rows, columns)} does not fit {bias_name} of length {shapes[bias_name][0]}."
    if told is not None and told not in fitting:
        raise UpdateError(
            f"layout={told} contradicts {name} of shape {(rows, columns)} with a bias of length "
            f"{shapes[bias_name][0]}; it is {fitting[0]}, so leave the layout out."
        )
    layout = fitting[0] if len(fitting) == 1 else told or usual or parsed.layout
    return OPEN_LAYOUT if layout is None else _layer(parsed.layer, name, bias_name, (rows, columns), layout)


def _layer(name: str, kernel_name: str, bias_name: str | None, shape: tuple[int, int], layout: str) -> DenseLayer:
    out_features, in_features = shape if layout == "out_in" else shape[::-1]
    return DenseLayer(name, kernel_name, bias_name, in_features, out_features, layout)
