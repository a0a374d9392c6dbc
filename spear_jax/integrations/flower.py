"""Flower: a strategy that records what the server receives, and a client mod that shows what leaves the client.

Server (either of Flower's strategy interfaces, ``flwr.serverapp.strategy`` or ``flwr.server.strategy``)::

    strategy = RecordingStrategy(FedAvg(), "recorded", metadata={"lr": 0.1})

Client (options by ``functools.partial``)::

    app = ClientApp(mods=[show_update_mod])

Flower's objects are used through their public methods only; flwr itself is imported for the lists of parameters of
the older interface and nowhere else.
"""

from __future__ import annotations

import os
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from spear_jax.audit.exposure import exposure
from spear_jax.errors import UpdateError
from spear_jax.integrations.recording import check_metadata, listening, make_folder, received_update, record
from spear_jax.update.bundle import Update

# Under which names configurations and metrics of Flower apps hold what the metadata of a bundle say.
_FACT_KEYS = {
    "lr": ("lr", "learning-rate", "learning_rate"),
    "local_steps": ("local-steps", "local_steps"),
    "num_examples": ("num-examples", "num_examples"),
    "weight_decay": ("weight-decay", "weight_decay"),
}
_ROUND_KEY = "server-round"


class _Sent(NamedTuple):
    """What one client was sent: its parameters, of either interface, and what the configuration says."""

    parameters: Any
    facts: dict[str, object]


class _Recording(NamedTuple):
    """Options of a recorder, and what was sent to each client of the current round."""

    folder: str | os.PathLike[str]
    names: Sequence[str] | None
    metadata: dict[str, str]
    sent: dict[object, _Sent]


class RecordingStrategy:
    """A strategy that writes each client's update as a bundle, and otherwise is the strategy it was given.

    The object is of a subclass of that strategy's own class and shares its attributes: settings, ``isinstance`` and a
    ``start`` of its own go on working, and every result is the strategy's. Each answer becomes
    ``<folder>/round-0001/client-<id>.safetensors`` before it is aggregated, with ``lr``, ``local_steps``,
    ``weight_decay`` and ``num_examples`` where configuration or metrics hold them. What cannot be recorded is logged
    as a warning.

    Args:
        strategy: of Flower, of either interface; not to be used on its own any more.
        folder: made where it does not exist.
        names: of the tensors, in order, where the model is sent as a list. Without them each matrix and the vector
            behind it are taken as one dense layer; where all are square, as (out, in) unless ``metadata`` hold
            ``layout``.
        kind: ``"weights"``, ``"delta"`` or ``"gradient"``: what clients answer.
        metadata: what else is known of every update, such as ``lr``, ``image_shape`` and ``normalization`` (JSON).

    Raises:
        UpdateError: no strategy, metadata that are invalid, or a folder that cannot be made.
    """

    def __new__(cls, strategy: Any, folder: str | os.PathLike[str], **_: Any) -> Any:
        """An object of a class derived from the strategy's."""
        if isinstance(strategy, type) or not (
            hasattr(strategy, "configure_train") or hasattr(strategy, "configure_fit")
        ):
            raise UpdateError(f"the strategy is {strategy!r}; expected a strategy of Flower, such as FedAvg().")
        self = object.__new__(types.new_class(f"Recording{type(strategy).__name__}", (cls, type(strategy))))
        self.__dict__ = strategy.__dict__
        return self

    def __init__(
        self,
        strategy: Any,
        folder: str | os.PathLike[str],
        *,
        names: Sequence[str] | None = None,
        kind: str = "weights",
        metadata: Mapping[str, object] | None = None,
    ) -> None:
        checked = check_metadata({"kind": kind} | dict(metadata or {}))
        make_folder(folder)
        self._recording = _Recording(folder, names, checked, {})

    def configure_train(self, server_round: int, arrays: Any, config: Any, grid: Any) -> Iterable[Any]:
        """The strategy's messages, remembered for when the answers come."""
        messages = list(super().configure_train(server_round, arrays, config, grid))  # pyright: ignore[reportAttributeAccessIssue]
        self._recording.sent.clear()
        for message in messages:
            with listening(server_round, message.metadata.dst_node_id):
                self._recording.sent[message.metadata.dst_node_id] = _sent(message.content)
        return messages

    def aggregate_train(self, server_round: int, replies: Iterable[Any]) -> Any:
        """The strategy's aggregate, after each reply was recorded."""
        replies = list(replies)
        for reply in replies:
            if reply.has_content():
                client = reply.metadata.src_node_id
                with listening(server_round, client):
                    tensors, facts = _answer(reply.content)
                    self._record(server_round, client, tensors, facts)
        return super().aggregate_train(server_round, replies)  # pyright: ignore[reportAttributeAccessIssue]

    def configure_fit(self, server_round: int, parameters: Any, client_manager: Any) -> Any:
        """The strategy's instructions of the older interface, remembered for when the answers come."""
        instructions = super().configure_fit(server_round, parameters, client_manager)  # pyright: ignore[reportAttributeAccessIssue]
        self._recording.sent.clear()
        for client, ins in instructions:
            self._recording.sent[client.cid] = _Sent(ins.parameters, _facts(ins.config))
        return instructions

    def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
        """The strategy's aggregate of the older interface, after each result was recorded."""
        for client, result in results:
            with listening(server_round, client.cid):
                facts = _facts(result.metrics, {"num-examples": result.num_examples})
                self._record(server_round, client.cid, _tensors(result.parameters), facts)
        return super().aggregate_fit(server_round, results, failures)  # pyright: ignore[reportAttributeAccessIssue]

    def _record(
        self, server_round: int, client: object, tensors: dict[str, np.ndarray], facts: dict[str, object]
    ) -> None:
        folder, names, metadata, sent = self._recording
        if client not in sent:
            raise UpdateError("nothing was sent to this client in this round.")
        parameters, known = sent[client]
        update = received_update(_tensors(parameters), tensors, names=names, metadata=metadata, facts=known | facts)
        record(update, folder, server_round, client)


def show_update_mod(
    msg: Any,
    context: Any,
    call_next: Callable[[Any, Any], Any],
    *,
    folder: str | os.PathLike[str] | None = None,
    names: Sequence[str] | None = None,
    kind: str = "weights",
    metadata: Mapping[str, object] | None = None,
) -> Any:
    """A client mod that prints, before a training reply leaves, what a server reads off each dense layer.

    Args:
        msg: the message that arrived.
        context: of the client.
        call_next: the next mod, or the app.
        folder: write the update there too, as `RecordingStrategy` does; not without being asked.
        names: see `RecordingStrategy`.
        kind: likewise.
        metadata: likewise.

    Returns:
        The reply, unchanged. What cannot be shown is logged as a warning.

    Raises:
        UpdateError: metadata that are invalid.
    """
    if msg.metadata.message_type.split(".")[0] != "train":
        return call_next(msg, context)
    checked = check_metadata({"kind": kind} | dict(metadata or {}))
    server_round, sent = 0, None
    with listening(server_round, context.node_id):
        # The app may empty the message while it reads it.
        server_round, sent = _round_of(msg), _sent(msg.content)
    reply = call_next(msg, context)
    with listening(server_round, context.node_id):
        if sent is not None and reply.has_content():
            tensors, facts = _answer(reply.content)
            update = received_update(
                _tensors(sent.parameters), tensors, names=names, metadata=checked, facts=sent.facts | facts
            )
            Console().print(_table(update, server_round))
            if folder is not None:
                record(update, folder, server_round, context.node_id)
    return reply


def _table(update: Update, server_round: int) -> Table:
    count = update.metadata.get("num_examples")
    trained_on = f", trained on {count} examples" if count else ""
    table = Table(title=f"Round {server_round}: what leaves this client{trained_on}", title_justify="left")
    for heading in ("layer", "m x n", "rank", "what a server sees"):
        table.add_column(heading)
    for layer in update.layers:
        # No reply should wait for the diagnosis, which takes seconds a layer.
        facts = exposure(update, layer, is_diagnosed=False)
        shape = f"{layer.out_features} x {layer.in_features}"
        table.add_row(layer.name, shape, str(facts.get("rank", "-")), facts["verdict"])
    for name, reason in update.skipped:
        table.add_row(name, "-", "-", f"not read: {reason}")
    return table


def _round_of(message: Any) -> int:
    """Round of a message: from its configuration, else from its group, which the older interface sets, else 0."""
    for config in message.content.config_records.values():
        if _ROUND_KEY in config:
            return int(config[_ROUND_KEY])
    group = message.metadata.group_id
    return int(group) if group.isdecimal() else 0


def _sent(content: Any) -> _Sent:
    # A copy of the mapping: what the app or the grid does to the record afterwards does not reach it.
    return _Sent(dict(_only(content.array_records)), _facts(*content.config_records.values()))


def _answer(content: Any) -> tuple[dict[str, np.ndarray], dict[str, object]]:
    return _tensors(_only(content.array_records)), _facts(*content.metric_records.values())


def _only(records: Mapping[str, Any]) -> Any:
    if len(records) != 1:
        held = ", ".join(records) or "none"
        raise UpdateError(f"the message holds {len(records)} ArrayRecords ({held}); expected one, the model.")
    return next(iter(records.values()))


def _facts(*records: Mapping[str, Any]) -> dict[str, object]:
    return {
        fact: record[key] for record in records for fact, keys in _FACT_KEYS.items() for key in keys if key in record
    }


def _tensors(parameters: Any) -> dict[str, np.ndarray]:
    """Tensors by name of an ArrayRecord, or by number of the older interface's Parameters."""
    if isinstance(parameters, Mapping):
        return {name: np.asarray(array.numpy()) for name, array in parameters.items()}
    try:
        from flwr.common import parameters_to_ndarrays  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("Flower's parameters need flwr: pip install 'spear-jax[flower]'.") from error
    return {str(index): array for index, array in enumerate(parameters_to_ndarrays(parameters))}
