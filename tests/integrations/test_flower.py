"""Flower: what is recorded is what was sent and came back, and the federation goes on as if nobody listened.

Every test runs on small stand-ins for the few objects that are used, and on Flower's own where it is installed.
"""

from __future__ import annotations

import functools
import importlib
import logging
import re
import sys
import types

import jax
import numpy as np
import pytest

from spear_jax.attacks.dense.pipeline import reconstruct
from spear_jax.errors import UpdateError
from spear_jax.integrations import received_update
from spear_jax.integrations.flower import RecordingStrategy, show_update_mod
from spear_jax.update.bundle_file import load_update

CLIENTS = (3, 10**18 + 1, 12)
SIZES = (24, 40, 5)


class Array:
    def __init__(self, array):
        self._array = np.array(array)

    def numpy(self):
        return self._array


class RecordDict(dict):
    """As Flower's: records of three kinds, told apart by what they hold."""

    array_records = property(lambda self: {k: v for k, v in self.items() if v and isinstance([*v.values()][0], Array)})
    config_records = property(lambda self: {k: v for k, v in self.items() if "config" in k})
    metric_records = property(lambda self: {k: v for k, v in self.items() if "metrics" in k})


class Message:
    def __init__(self, content=None, dst_node_id=0, message_type="train", *, reply_to=None):
        src_node_id = 0 if reply_to is None else reply_to.metadata.dst_node_id
        self.metadata = types.SimpleNamespace(
            dst_node_id=dst_node_id, src_node_id=src_node_id, message_type=message_type, group_id=""
        )
        self.content = content

    def has_content(self):
        return self.content is not None


class FedAvg:
    """Stand-in for both of Flower's strategies of this name."""

    def __init__(self, **settings):
        self.__dict__.update(settings)

    def configure_train(self, server_round, arrays, config, grid):
        config["server-round"] = server_round
        return (Message(RecordDict(arrays=arrays, config=config), node) for node in grid.get_node_ids())

    def aggregate_train(self, server_round, replies):
        contents = [reply.content for reply in replies if reply.has_content()]
        weights = [content["metrics"]["num-examples"] for content in contents]
        sums = {
            name: Array(
                sum(w * c["arrays"][name].numpy() for w, c in zip(weights, contents, strict=True)) / sum(weights)
            )
            for name in contents[0]["arrays"]
        }
        return sums, {}

    def configure_fit(self, server_round, parameters, client_manager):
        return [(client, types.SimpleNamespace(parameters=parameters, config={})) for client in client_manager]

    def aggregate_fit(self, server_round, results, failures):
        tensors = [result.parameters.tensors for _, result in results]
        return types.SimpleNamespace(tensors=[np.mean(group, 0) for group in zip(*tensors, strict=True)]), {}


def fake_flower(monkeypatch):
    common = types.ModuleType("flwr.common")
    common.__dict__["parameters_to_ndarrays"] = lambda parameters: parameters.tensors
    monkeypatch.setitem(sys.modules, "flwr", types.ModuleType("flwr"))
    monkeypatch.setitem(sys.modules, "flwr.common", common)
    return types.SimpleNamespace(
        FedAvg=FedAvg,
        LegacyFedAvg=FedAvg,
        Array=Array,
        ArrayRecord=dict,
        ConfigRecord=dict,
        MetricRecord=dict,
        RecordDict=RecordDict,
        Message=Message,
        error_reply=lambda message: Message(reply_to=message),
        fit_res=lambda arrays, count: types.SimpleNamespace(
            parameters=types.SimpleNamespace(tensors=arrays), num_examples=count, metrics={}
        ),
        parameters=lambda arrays: types.SimpleNamespace(tensors=arrays),
        ndarrays=lambda parameters: parameters.tensors,
        client_manager=lambda clients: clients,
    )


def real_flower(monkeypatch):
    pytest.importorskip("flwr")
    app, common = importlib.import_module("flwr.app"), importlib.import_module("flwr.common")
    identity = importlib.import_module("flwr.supercore.task_identity").TaskIdentity
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(identity, name, 1)
    new, old = (importlib.import_module(f"flwr.{name}.strategy").FedAvg for name in ("serverapp", "server"))
    ok = common.Status(common.Code.OK, "")
    return types.SimpleNamespace(
        FedAvg=new,
        LegacyFedAvg=old,
        **{name: getattr(app, name) for name in ("Array", "ArrayRecord", "ConfigRecord", "MetricRecord")},
        RecordDict=app.RecordDict,
        Message=app.Message,
        error_reply=lambda message: app.Message(app.Error(code=0, reason="out of memory"), reply_to=message),
        fit_res=lambda arrays, count: common.FitRes(ok, common.ndarrays_to_parameters(arrays), count, {}),
        parameters=common.ndarrays_to_parameters,
        ndarrays=common.parameters_to_ndarrays,
        client_manager=lambda clients: types.SimpleNamespace(
            num_available=lambda: len(clients), sample=lambda num_clients, min_num_clients: clients
        ),
    )


@pytest.fixture(params=[fake_flower, real_flower], ids=["stand-ins", "flwr"])
def flower(request, monkeypatch):
    return request.param(monkeypatch)


def tensors(seed, sizes=SIZES, dtype=np.float32):
    generator = np.random.default_rng(seed)
    result = {}
    for index, (n, m) in enumerate(zip(sizes, sizes[1:], strict=False)):
        result[f"dense_{index}/kernel"] = generator.normal(size=(n, m)).astype(dtype)
        result[f"dense_{index}/bias"] = generator.normal(size=m).astype(dtype)
    return result


def arrays(flower, named):
    return flower.ArrayRecord({name: flower.Array(tensor) for name, tensor in named.items()})


def grid(clients=CLIENTS):
    return types.SimpleNamespace(get_node_ids=lambda: list(clients))


def answer(flower, message, named, **metrics):
    metrics = flower.MetricRecord({"num-examples": 8} | metrics)
    return flower.Message(flower.RecordDict({"arrays": arrays(flower, named), "metrics": metrics}), reply_to=message)


def one_round(flower, strategy, sent, came_back, server_round=1, config=None):
    """Result of one round in which client i answers ``came_back[i]``, or fails where that is None."""
    config = flower.ConfigRecord(config or {"lr": 0.1})
    messages = list(strategy.configure_train(server_round, arrays(flower, sent), config, grid()))
    messages.sort(key=lambda message: CLIENTS.index(message.metadata.dst_node_id))
    replies = [
        flower.error_reply(message) if named is None else answer(flower, message, named)
        for message, named in zip(messages, came_back, strict=True)
    ]
    return strategy.aggregate_train(server_round, iter(replies))


def assert_same_tensors(left, right):
    assert list(left) == list(right)
    for name in left:
        assert left[name].dtype == right[name].dtype
        np.testing.assert_array_equal(left[name], right[name])


def numpy_of(record):
    return {name: array.numpy() for name, array in record.items()}


def test_every_client_of_every_round_is_recorded_as_it_was_sent_and_came_back(flower, tmp_path):
    strategy = RecordingStrategy(flower.FedAvg(), tmp_path / "a" / "b", metadata={"image_shape": [2, 4, 3]})
    for server_round in (1, 2):
        sent, came_back = tensors(server_round), [tensors(10 * server_round + i) for i in range(3)]
        one_round(flower, strategy, sent, came_back, server_round)
        for client, named in zip(CLIENTS, came_back, strict=True):
            update = load_update(tmp_path / "a" / "b" / f"round-000{server_round}" / f"client-{client}.safetensors")
            assert_same_tensors(dict(sorted(update.global_tensors.items())), dict(sorted(sent.items())))
            assert_same_tensors(dict(sorted(update.client_tensors.items())), dict(sorted(named.items())))
            assert update.kind == "weights"
            assert update.image_shape == (2, 4, 3)
            assert {key: update.metadata[key] for key in ("lr", "num_examples")} == {"lr": "0.1", "num_examples": "8"}
            assert "local_steps" not in update.metadata


def test_the_aggregate_is_the_strategys_own(flower, tmp_path):
    sent, came_back = tensors(0), [tensors(i) for i in (1, 2, 3)]
    expected, metrics = one_round(flower, flower.FedAvg(), sent, came_back)
    recorded, recorded_metrics = one_round(flower, RecordingStrategy(flower.FedAvg(), tmp_path), sent, came_back)
    assert_same_tensors(numpy_of(recorded), numpy_of(expected))
    assert recorded_metrics == metrics
    other, _ = one_round(flower, flower.FedAvg(), sent, [tensors(i) for i in (1, 2, 4)])
    assert not np.array_equal(other["dense_0/bias"].numpy(), expected["dense_0/bias"].numpy())


def test_it_is_an_instance_of_the_strategy_with_its_state_and_its_own_start(flower, tmp_path):
    class Custom(flower.FedAvg):
        def __init__(self):
            super().__init__(fraction_train=0.75)
            self.seen = []

        def configure_train(self, *args):
            self.seen.append("configure")
            return super().configure_train(*args)

        def start(self, sent, came_back):
            self.started = True
            return one_round(flower, self, sent, came_back)

    inner = Custom()
    strategy = RecordingStrategy(inner, tmp_path)
    assert isinstance(strategy, Custom)
    assert isinstance(strategy, RecordingStrategy)
    assert strategy.fraction_train == 0.75
    strategy.fraction_train = 1.0
    strategy.start(tensors(0), [tensors(i) for i in (1, 2, 3)])
    assert inner.seen == ["configure"]
    assert inner.started
    assert inner.fraction_train == 1.0
    assert len(list(tmp_path.glob("round-0001/*"))) == 3


def test_failed_clients_leave_no_file_and_no_warning(flower, tmp_path, caplog):
    strategy = RecordingStrategy(flower.FedAvg(), tmp_path)
    one_round(flower, strategy, tensors(0), [tensors(1), None, tensors(2)])
    assert [path.name for path in sorted(tmp_path.glob("*/*"))] == ["client-12.safetensors", "client-3.safetensors"]
    assert not [record for record in caplog.records if "spear_jax" in record.name]


@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        ({"dense_0/kernel": np.ones((2, 2), np.float32)}, r"dense_0/kernel is \(24, 40\) before and \(2, 2\) after"),
        ({"extra": np.ones(2, np.float32)}, "after holds extra, which before lacks: both must be"),
        ({"dense_0/bias": np.full(40, "text")}, "not recorded"),
    ],
)
def test_what_cannot_be_recorded_is_logged_and_the_round_goes_on(flower, tmp_path, caplog, damaged, message):
    class Lenient(flower.FedAvg):
        def aggregate_train(self, server_round, replies):
            for reply in replies:
                reply.content["arrays"].clear()  # what was recorded is what came, not what is left of it
            return len(replies)

    strategy = RecordingStrategy(Lenient(), tmp_path)
    assert one_round(flower, strategy, tensors(0), [tensors(1), tensors(2) | damaged, tensors(3)]) == 3
    assert len(list(tmp_path.glob("round-0001/*"))) == 2
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING and "spear" in record.name]
    assert warning.getMessage().startswith(f"round 1, client {CLIENTS[1]}: the update was not recorded: ")
    assert re.search(message, warning.getMessage())


def test_a_reply_that_nobody_asked_for_in_this_round_is_logged(flower, tmp_path, caplog):
    strategy = RecordingStrategy(flower.FedAvg(), tmp_path)
    sent, config = arrays(flower, tensors(0)), flower.ConfigRecord({})
    earlier = list(strategy.configure_train(1, sent, config, grid(CLIENTS[:2])))
    (late,) = [message for message in earlier if message.metadata.dst_node_id == CLIENTS[0]]
    messages = list(strategy.configure_train(2, sent, config, grid(CLIENTS[1:])))
    strategy.aggregate_train(2, [answer(flower, message, tensors(1)) for message in (late, *messages)])
    assert f"round 2, client {CLIENTS[0]}: the update was not recorded: nothing was sent to this client" in caplog.text
    assert len(list(tmp_path.glob("round-0002/*"))) == 2


def test_a_second_run_into_the_same_folder_overwrites_nothing(flower, tmp_path, caplog):
    for seed in (0, 5):
        one_round(flower, RecordingStrategy(flower.FedAvg(), tmp_path), tensors(seed), [tensors(9)] * 3)
    update = load_update(tmp_path / "round-0001" / "client-3.safetensors")
    np.testing.assert_array_equal(update.global_tensors["dense_0/bias"], tensors(0)["dense_0/bias"])
    assert caplog.text.count("exists; record every run in a folder of its own") == 3


def test_lists_get_names_that_pair_or_those_given(flower, tmp_path):
    listed = [
        np.ones((40, 24), np.float32),
        np.ones(40, np.float32),
        np.ones((5, 40), np.float32),
        np.ones(5, np.float32),
    ]
    numbered = {str(index): array for index, array in enumerate(listed)}
    names = ("a.weight", "a.bias", "b.weight", "b.bias")
    for folder, given in ((tmp_path / "ordinal", None), (tmp_path / "named", names)):
        one_round(flower, RecordingStrategy(flower.FedAvg(), folder, names=given), numbered, [numbered] * 3)
    ordinal, named = (load_update(tmp_path / f / "round-0001" / "client-3.safetensors") for f in ("ordinal", "named"))
    assert [(layer.name, layer.layout) for layer in ordinal.layers] == [("layer_00", "out_in"), ("layer_01", "out_in")]
    assert [layer.name for layer in named.layers] == ["a", "b"]


def test_kinds_and_metadata_of_the_user_go_before_the_messages(flower, tmp_path):
    strategy = RecordingStrategy(flower.FedAvg(), tmp_path, kind="gradient", metadata={"lr": 0.5, "local_steps": 1})
    config = {"lr": 0.1, "local-steps": 7, "weight-decay": 0.25}
    one_round(flower, strategy, tensors(0), [tensors(1)] * 3, config=config)
    update = load_update(tmp_path / "round-0001" / "client-3.safetensors")
    assert (update.kind, update.metadata["lr"], update.metadata["local_steps"]) == ("gradient", "0.5", "1")
    assert update.metadata["weight_decay"] == "0.25"


def legacy_round(flower, strategy, sent, came_back):
    clients = [types.SimpleNamespace(cid=cid) for cid in ("ipv4:10.0.0.1:80", "../../b", "c")]
    instructions = strategy.configure_fit(
        server_round=1, parameters=flower.parameters(sent), client_manager=flower.client_manager(clients)
    )
    results = [(client, flower.fit_res(came, 8)) for (client, _), came in zip(instructions, came_back, strict=True)]
    return strategy.aggregate_fit(server_round=1, results=results, failures=[])


def test_the_older_interface_is_recorded_and_aggregates_the_same(flower, tmp_path):
    sent, came_back = list(tensors(0).values()), [list(tensors(i).values()) for i in (1, 2, 3)]
    quiet = functools.partial(flower.LegacyFedAvg, fit_metrics_aggregation_fn=lambda _: {})
    expected, _ = legacy_round(flower, quiet(), sent, came_back)
    strategy = RecordingStrategy(quiet(), tmp_path / "recorded", metadata={"lr": 0.1})
    recorded, _ = legacy_round(flower, strategy, sent, came_back)
    for left, right in zip(flower.ndarrays(recorded), flower.ndarrays(expected), strict=True):
        np.testing.assert_array_equal(left, right)
    files = sorted((tmp_path / "recorded" / "round-0001").iterdir())
    assert [path.name for path in files] == [
        "client-.._.._b.safetensors",
        "client-c.safetensors",
        "client-ipv4_10.0.0.1_80.safetensors",
    ]
    update = load_update(files[2])
    assert update.metadata["num_examples"] == "8"
    assert [(layer.name, layer.layout) for layer in update.layers] == [("layer_00", "in_out"), ("layer_01", "in_out")]
    np.testing.assert_array_equal(update.global_tensors["layer_00/kernel"], sent[0])
    np.testing.assert_array_equal(update.client_tensors["layer_01/bias"], came_back[0][3])


def test_the_older_interface_without_flower_says_what_to_install(monkeypatch, tmp_path, caplog):
    flower = fake_flower(monkeypatch)
    monkeypatch.setitem(sys.modules, "flwr.common", None)
    strategy = RecordingStrategy(flower.LegacyFedAvg(), tmp_path)
    sent = list(tensors(0).values())
    legacy_round(flower, strategy, sent, [sent] * 3)
    assert caplog.text.count("Flower's parameters need flwr: pip install 'spear-jax[flower]'.") == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "secret"}, "kind is 'secret'; expected one of gradient, weights, delta"),
        ({"metadata": {"lr": -1}}, "lr is '-1'; expected a positive number"),
        ({"metadata": {"image_shape": (2, 2, 3)}}, r"image_shape is '\(2, 2, 3\)'; expected JSON"),
    ],
)
def test_wrong_options_are_refused_before_the_first_round(flower, tmp_path, options, message):
    with pytest.raises(UpdateError, match=message):
        RecordingStrategy(flower.FedAvg(), tmp_path, **options)


def test_what_is_no_strategy_and_a_folder_that_cannot_be_are_refused(flower, tmp_path):
    for wrong in (3, flower.FedAvg):
        with pytest.raises(UpdateError, match=r"the strategy is .*; expected a strategy of Flower, such as FedAvg\(\)"):
            RecordingStrategy(wrong, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UpdateError, match="cannot make the folder .*file"):
        RecordingStrategy(flower.FedAvg(), tmp_path / "file")


def step(sent, inputs, labels, lr):
    """Weights after one SGD step of a one-hidden-layer ReLU classifier, by hand in float64, sent as float32."""
    w0, b0, w1, b1 = (tensor.astype(np.float64) for tensor in sent.values())
    pre = inputs @ w0 + b0
    logits = np.maximum(pre, 0) @ w1 + b1
    probabilities = np.exp(logits - logits.max(1, keepdims=True))
    grad = (probabilities / probabilities.sum(1, keepdims=True) - np.eye(len(b1))[labels]) / len(labels)
    grad_z = (grad @ w1.T) * (pre > 0)
    gradients = (inputs.T @ grad_z, grad_z.sum(0), np.maximum(pre, 0).T @ grad, grad.sum(0))
    return {
        name: (tensor - lr * gradient).astype(np.float32)
        for (name, tensor), gradient in zip(sent.items(), gradients, strict=True)
    }


def test_what_was_recorded_gives_the_batch_back(flower, tmp_path):
    inputs = np.random.default_rng(5).normal(size=(2, SIZES[0]))
    sent = {name: 0.3 * tensor for name, tensor in tensors(0).items()}
    came_back = step(sent, inputs, np.array([0, 3]), lr=0.1)
    one_round(flower, RecordingStrategy(flower.FedAvg(), tmp_path), sent, [came_back, sent, sent])
    update = load_update(tmp_path / "round-0001" / f"client-{CLIENTS[0]}.safetensors")
    result = reconstruct(update.observation(), key=jax.random.key(0))
    assert result.batch_size == 2
    found = np.asarray(result.inputs)
    errors = np.abs(found[:, None] - inputs[None]).max(2)
    assert errors.min(0).max() < 1e-3
    with pytest.raises(UpdateError, match="zero everywhere"):
        load_update(tmp_path / "round-0001" / f"client-{CLIENTS[1]}.safetensors").observation()


def train_message(flower, sent, message_type="train"):
    config = flower.ConfigRecord({"lr": 0.1, "server-round": 4})
    return flower.Message(flower.RecordDict({"arrays": arrays(flower, sent), "config": config}), 3, message_type)


CONTEXT = types.SimpleNamespace(node_id=3)


def test_the_mod_shows_the_rank_of_each_layer_and_returns_the_reply_itself(flower, tmp_path, capsys):
    inputs = np.random.default_rng(5).normal(size=(3, SIZES[0]))
    sent = {name: 0.3 * tensor for name, tensor in tensors(0).items()}
    came_back = step(sent, inputs, np.array([0, 3, 1]), lr=0.1)
    message = train_message(flower, sent)
    reply = answer(flower, message, came_back)

    def app(msg, context):
        assert context is CONTEXT
        msg.content["arrays"].clear()  # as to_numpy_ndarrays(keep_input=False) does
        return reply

    returned = show_update_mod(message, CONTEXT, app, folder=tmp_path)
    assert returned is reply
    assert_same_tensors(numpy_of(returned.content["arrays"]), came_back)
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "Round 4: what leaves this client, trained on 8 examples" in shown
    rank = np.linalg.matrix_rank((sent["dense_0/kernel"] - came_back["dense_0/kernel"]).astype(np.float64), tol=1e-5)
    assert rank == 3
    assert f"dense_0 40 x 24 {rank} invertible by sampling, {rank} samples visible of 8 reported" in shown
    assert "dense_1 5 x 40 3 no ReLU follows the last layer" in shown
    update = load_update(tmp_path / "round-0004" / "client-3.safetensors")
    assert_same_tensors(dict(sorted(update.client_tensors.items())), dict(sorted(came_back.items())))


def test_the_mod_says_so_where_noise_or_nothing_is_sent(flower, capsys):
    for came_back, verdict in ((tensors(1), "full rank: the batch"), (tensors(0), "weight_grad is zero everywhere")):
        message = train_message(flower, tensors(0))
        show_update_mod(message, CONTEXT, lambda msg, _, named=came_back: answer(flower, msg, named))
        shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
        assert verdict in shown
        assert "invertible" not in shown


def test_the_mod_lets_everything_else_pass(flower, tmp_path, capsys, caplog):
    for message_type, make in (
        ("evaluate", lambda msg: answer(flower, msg, tensors(1))),
        ("train", flower.error_reply),
        ("train", lambda msg: answer(flower, msg, {"other": np.ones(3, np.float32)})),
    ):
        message = train_message(flower, tensors(0), message_type)
        reply = make(message)
        assert show_update_mod(message, CONTEXT, lambda *_, reply=reply: reply, folder=tmp_path) is reply
    assert not capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    (warning,) = [record for record in caplog.records if "spear" in record.name]
    assert "round 4, client 3: the update was not recorded: after holds other" in warning.getMessage()


@pytest.mark.parametrize("names", [("a",), ("a", "a", "b", "b"), ("a", "b", "c", "d", "e")])
def test_names_are_one_for_each_tensor(names):
    with pytest.raises(UpdateError, match=r"\d different names were given for 4 tensors; give one for each"):
        received_update(tensors(0), tensors(1), metadata={"kind": "weights"}, facts={}, names=names)


def test_facts_that_make_no_sense_are_left_out():
    facts = {"num_examples": 8.0, "lr": float("nan"), "local_steps": [1, 2]}
    update = received_update(tensors(0), tensors(1), metadata={"kind": "weights"}, facts=facts)
    assert dict(update.metadata) == {"kind": "weights", "num_examples": "8"}


def test_an_answer_under_other_prefixes_or_of_some_tensors_only_is_recorded():
    sent, back = tensors(0), tensors(1)
    wrapped = {f"module.{name}": tensor for name, tensor in back.items()}
    update = received_update(sent, wrapped, metadata={"kind": "weights"}, facts={})
    assert_same_tensors(update.client_tensors, back)
    with_buffer = sent | {"norm/mean": np.zeros(3, np.float32)}
    assert_same_tensors(received_update(with_buffer, back, metadata={"kind": "delta"}, facts={}).client_tensors, back)
