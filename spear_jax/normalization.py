"""How pixels in [0, 1] become the inputs of a model: one mean and one standard deviation per channel."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np

from spear_jax.errors import SpearError

_PRESETS = {
    "none": ((0.0,), (1.0,)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "mnist": ((0.1307,), (0.3081,)),
}


@dataclasses.dataclass(frozen=True)
class Normalization:
    """``normalized = (pixels - mean) / std`` per channel, with pixels in [0, 1].

    Attributes:
        mean: one value for all channels, or one per channel.
        std: positive, as many as ``mean``.

    Raises:
        SpearError: lengths that differ or are zero, values that are not finite, a deviation that is not positive.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.mean or len(self.mean) != len(self.std):
            raise SpearError(
                f"normalization has {len(self.mean)} mean(s) and {len(self.std)} deviation(s); "
                "expected one of each, or one of each per channel."
            )
        if not all(math.isfinite(value) for value in (*self.mean, *self.std)) or min(self.std) <= 0:
            raise SpearError(
                f"normalization has mean {self.mean} and std {self.std}; expected finite means and positive deviations."
            )

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """Model inputs from pixels.

        Args:
            pixels: (b, H, W, C) floating, in [0, 1].

        Returns:
            (b, H, W, C) in the dtype of ``pixels``.

        Raises:
            SpearError: C does not match the number of statistics.
        """
        mean, std = self._statistics(pixels)
        return (pixels - mean) / std

    def invert(self, normalized: np.ndarray) -> np.ndarray:
        """Pixels in [0, 1] (not clipped) from model inputs; the inverse of `apply`."""
        mean, std = self._statistics(normalized)
        return normalized * std + mean

    def to_json(self) -> str:
        """The statistics as a JSON object with the lists ``mean`` and ``std``."""
        return json.dumps({"mean": list(self.mean), "std": list(self.std)})

    @classmethod
    def from_json(cls, text: str) -> Normalization:
        """Reads what `to_json` wrote.

        Raises:
            SpearError: the text is something else.
        """
        try:
            record = json.loads(text)
            mean, std = (tuple(float(value) for value in record[name]) for name in ("mean", "std"))
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise SpearError(f'normalization {text!r} is not a JSON object {{"mean": [...], "std": [...]}}.') from error
        return cls(mean, std)

    @classmethod
    def parse(cls, text: str) -> Normalization:
        """Reads a preset name, ``mean,std`` for all channels, or ``m1,m2,m3,s1,s2,s3`` for three.

        Raises:
            SpearError: none of these.
        """
        if text.strip().lower() in _PRESETS:
            return cls(*_PRESETS[text.strip().lower()])
        try:
            values = tuple(float(part) for part in text.split(","))
        except ValueError:
            values = ()
        if len(values) not in (2, 6):
            raise SpearError(
                f"normalization {text!r} is not understood; expected {', '.join(_PRESETS)}, a pair mean,std, "
                "or six numbers m1,m2,m3,s1,s2,s3."
            )
        half = len(values) // 2
        return cls(values[:half], values[half:])

    def _statistics(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        channels = images.shape[-1]
        if len(self.mean) not in (1, channels):
            advice = "mnist, none or an explicit mean,std" if channels == 1 else "one mean and deviation per channel"
            raise SpearError(
                f"the images have {channels} channel(s) but the normalization has statistics for {len(self.mean)}; "
                f"pass {advice}."
            )
        return np.asarray(self.mean, images.dtype), np.asarray(self.std, images.dtype)
