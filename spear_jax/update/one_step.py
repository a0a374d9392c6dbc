"""Whether what came back is the gradient, or one step of SGD with it: told from its numbers, whatever the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from spear_jax.update import half_precision
from spear_jax.update.returned import Returned

# Share of a layer's weights that moved by at most one unit in the last place from which rounding hides the step.
MOST_ROUNDED = 0.5
# One step of Adam moves nearly every weight by the learning rate, which a gradient's entries, with their heavy tails,
# never resemble: of a Gaussian's 4 % lie this near to the median of their sizes.
SAME_SIZE, MOST_SAME = 0.05, 0.5
_SAMPLES = 4096


def several_steps(back: Returned) -> str | None:
    """Said where the client took more steps than one."""
    if back.local_steps == 1:
        return None
    return (
        f"the client took {back.local_steps} local steps, each from other weights; exact inversion needs one, or the "
        "gradient."
    )


def nothing_changed(kind: str) -> str:
    """What is said where no tensor has a gradient."""
    if kind == "gradient":
        return "every gradient that came back is zero; nothing was trained, or the wrong file was given."
    return "no tensor changed between what was sent and what came back; give the model after the client's round."


def weights_after(back: Returned, name: str) -> np.ndarray:
    """A tensor of the model that the client had in the end; not of a gradient."""
    return back.came_back[name] if back.kind == "weights" else back.sent[name] + back.came_back[name]


def rounding(back: Returned, names: Iterable[str]) -> dict[str, float]:
    """Root mean square error of gradients, by name, that the rounding of the client's weights makes."""
    with np.errstate(invalid="ignore", over="ignore"):
        return {name: half_precision.rounding(weights_after(back, name), back.lr) for name in names}


def drowned(back: Returned, names: Sequence[str], *, is_sparse: bool = False) -> str | None:
    """Said where the step is lost in the rounding of the weights it was added to.

    Args:
        back: both sides.
        names: of the tensors that are judged.
        is_sparse: whether many entries of the gradients are zero of themselves, so that only weights that moved count.
    """
    if back.kind == "gradient":
        return None
    steps, dtypes = [], set()
    for name in names:
        after, sent = weights_after(back, name), back.sent[name]
        dtype = half_precision.unit_dtype(after)
        after, sent = _some(after), _some(sent).astype(dtype).astype(after.dtype)  # as the client began, in its dtype
        steps.append(np.abs(after - sent) / half_precision.units(after, dtype))
        dtypes.add(dtype.name)
    steps = np.concatenate(steps)
    steps = steps[steps > 0] if is_sparse and np.any(steps > 0) else steps
    # A step may cross into the next power of two, where units are twice as large.
    share = float(np.mean(np.isin(steps, (0, 0.5, 1, 2))))
    if share < MOST_ROUNDED:
        return None
    other = "a round of larger steps" if dtypes <= {"float32", "float64"} else "weights in float32"
    return (
        f"{share:.0%} of the weights moved by at most one unit in the last place of {' and '.join(sorted(dtypes))}: "
        f"the step drowned in their rounding; bring the gradient, or {other}."
    )


def signs(back: Returned, gradients: Mapping[str, np.ndarray], names: Sequence[str]) -> str | None:
    """Said where all entries are alike in size, as after one step of Adam.

    Args:
        back: both sides.
        gradients: of what was trained, by name.
        names: of the tensors that are judged.
    """
    sizes = np.concatenate([np.abs(_some(gradients[name])) for name in names])
    sizes = sizes[(sizes > 0) & np.isfinite(sizes)]
    middle = float(np.median(sizes)) if len(sizes) else 0.0
    share = float(np.mean(np.abs(sizes - middle) <= SAME_SIZE * middle)) if len(sizes) else 0.0
    if share < MOST_SAME:
        return None
    if back.kind == "gradient":
        return (
            f"{share:.0%} of the gradient's entries are +-{middle:.3g}: signs, as an Adam step or compression leaves "
            "them; exact inversion needs SGD or the gradient."
        )
    lr = float(back.metadata.get("lr", "1"))
    size = "lr" if "lr" in back.metadata and abs(middle - 1) <= SAME_SIZE else f"{middle * lr:.3g}"
    return (
        f"the change of {share:.0%} of the entries is +-{size}: an Adam step; "
        "exact inversion needs SGD or the gradient."
    )


def _some(tensor: np.ndarray) -> np.ndarray:
    """Entries from all over a tensor, enough of them to tell shares."""
    flat = tensor.reshape(-1)
    return flat[np.linspace(0, flat.size - 1, min(flat.size, _SAMPLES)).astype(int)]
