"""A plain training loop of PyTorch: what each step would give away, written before the optimizer takes it.

One line beside the loop::

    optimizer.register_step_pre_hook(StepRecorder(model, "recorded"))

or a call between ``backward`` and ``step``::

    recorder = StepRecorder(model, "recorded", metadata={"image_shape": [28, 28, 1]})
    for inputs, labels in batches:
        optimizer.zero_grad()
        loss(model(inputs), labels).backward()
        recorder()
        optimizer.step()

Then ``spear-jax reconstruct recorded --out recon`` inverts what was recorded. torch is not imported here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from spear_jax.integrations.recording import check_metadata, listening, make_folder, record
from spear_jax.update.live_torch import from_torch


class StepRecorder:
    """Writes the gradients of a model as ``<folder>/round-0001/client-<name>.safetensors``, one file a call.

    The training goes on whatever happens: what cannot be recorded is logged as a warning, and nothing is overwritten.

    Args:
        model: the ``torch.nn.Module`` that is trained.
        folder: made where it does not exist.
        client: what the files are called after.
        metadata: what is known of every step, such as ``image_shape`` and ``normalization`` (JSON).

    Raises:
        UpdateError: metadata that are invalid, or a folder that cannot be made.
    """

    def __init__(
        self,
        model: Any,
        folder: str | os.PathLike[str],
        *,
        client: str = "0",
        metadata: Mapping[str, object] | None = None,
    ) -> None:
        self._model, self._folder, self._client, self._step = model, folder, client, 0
        self._metadata = check_metadata(metadata or {})
        make_folder(folder)

    def __call__(self, *_: Any) -> None:
        """Record the gradients as they are; the arguments are those of an optimizer's hook and are not used."""
        self._step += 1
        with listening(self._step, self._client):
            update = from_torch(self._model, kind="gradient", metadata=self._metadata)
            record(update, self._folder, self._step, self._client)
