"""NVFlare: a filter of the server that records what each client answers.

In ``config_fed_server.json``, in the chain of what the server sends and in the chain of what comes back::

    "task_data_filters":   [{"tasks": ["train"], "filters": [{"path": "spear_jax.integrations.nvflare.RecordUpdates",
                                                              "args": {"folder": "recorded"}}]}],
    "task_result_filters": [{"tasks": ["train"], "filters": [{"path": "spear_jax.integrations.nvflare.RecordUpdates",
                                                              "args": {"folder": "recorded"}}]}]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spear_jax.errors import UpdateError
from spear_jax.integrations.recording import check_metadata, listening, make_folder, received_update, record

try:
    from nvflare.apis.dxo import DataKind, MetaKey  # pyright: ignore[reportMissingImports]
    from nvflare.apis.dxo_filter import DXOFilter  # pyright: ignore[reportMissingImports]
    from nvflare.apis.filter import FilterChainType, FilterContextKey  # pyright: ignore[reportMissingImports]
    from nvflare.app_common.app_constant import AppConstants  # pyright: ignore[reportMissingImports]
except ImportError as error:
    raise ImportError("spear_jax.integrations.nvflare needs NVFlare: pip install 'spear-jax[nvflare]'.") from error

_KINDS = {DataKind.WEIGHTS: "weights", DataKind.WEIGHT_DIFF: "delta"}


class RecordUpdates(DXOFilter):
    """Writes each client's WEIGHTS or WEIGHT_DIFF as ``<folder>/round-0001/client-<name>.safetensors``.

    Everything passes unchanged. Among the task data filters it keeps what is sent to each client in the server's
    context; among the task result filters it pairs that with the answer, or where it saw nothing sent, the workflow's
    global model. Rounds are numbered as the workflow does, from 0. ``NUM_STEPS_CURRENT_ROUND`` becomes
    ``local_steps``. What cannot be recorded is logged as a warning.

    Args:
        folder: made where it does not exist.
        names: of the tensors, in order, instead of those they have.
        metadata: what is known of every update, such as ``lr``, ``image_shape`` and ``normalization`` (JSON); goes
            before what the messages say.

    Raises:
        UpdateError: metadata that are invalid, or a folder that cannot be made.
    """

    def __init__(
        self, folder: str, names: Sequence[str] | None = None, metadata: Mapping[str, object] | None = None
    ) -> None:
        kinds = list(_KINDS)
        super().__init__(supported_data_kinds=kinds, data_kinds_to_filter=kinds)
        self.folder = folder
        self.names = names
        self.metadata = check_metadata(metadata or {})
        make_folder(folder)

    def process_dxo(self, dxo: Any, shareable: Any, fl_ctx: Any) -> None:
        """Keeps or records one DXO; None tells NVFlare that nothing was filtered."""
        peer = fl_ctx.get_peer_context()
        client = peer.get_identity_name() if peer else "unknown"
        known_round = fl_ctx.get_prop(AppConstants.CURRENT_ROUND, 0)
        # The two chains hold two objects of this class; the sticky properties of the server are all they share.
        key = f"spear_jax_sent_to_{client}"
        if self.get_prop(FilterContextKey.CHAIN_TYPE) == FilterChainType.TASK_DATA_CHAIN:
            server_round = shareable.get_header(AppConstants.CURRENT_ROUND, known_round)
            fl_ctx.set_prop(key, (server_round, dict(dxo.data)), private=True, sticky=True)
            return
        server_round, sent = fl_ctx.get_prop(key) or (known_round, _global_model(fl_ctx))
        with listening(server_round, client):
            self._record(dxo, sent, server_round, client)

    def _record(self, dxo: Any, sent: Mapping[str, Any] | None, server_round: int, client: str) -> None:
        if sent is None:
            raise UpdateError(
                "what the server sent is not known; put this filter among the task_data_filters of the server too."
            )
        facts = {"kind": _KINDS[dxo.data_kind], "local_steps": dxo.get_meta_prop(MetaKey.NUM_STEPS_CURRENT_ROUND)}
        tensors = {name: np.asarray(tensor) for name, tensor in dxo.data.items()}
        sent = {name: np.asarray(tensor) for name, tensor in sent.items()}
        update = received_update(sent, tensors, names=self.names, metadata=self.metadata, facts=facts)
        record(update, self.folder, server_round, client)


def _global_model(fl_ctx: Any) -> Mapping[str, Any] | None:
    """Weights of the model that a workflow keeps as a property of the server's context."""
    return (fl_ctx.get_prop(AppConstants.GLOBAL_MODEL) or {}).get("weights")
