"""NVFlare: what the server's filter records is what was sent and came back, and everything passes unchanged.

Every test runs on small stand-ins for the few classes that are used, and on NVFlare's own where it is installed.
"""

from __future__ import annotations

import copy
import importlib
import sys
import types

import numpy as np
import pytest

from spear_jax.errors import UpdateError
from spear_jax.update.bundle_file import load_update

MODULE = "spear_jax.integrations.nvflare"


class DXO:
    def __init__(self, data_kind, data, meta=None):
        self.data_kind, self.data, self.meta = data_kind, data, meta or {}

    def get_meta_prop(self, key, default=None):
        return self.meta.get(key, default)

    def to_shareable(self):
        shareable = Shareable()
        shareable["DXO"] = {"kind": self.data_kind, "data": self.data, "meta": self.meta}
        return shareable


class Shareable(dict):
    def __init__(self):
        super().__init__(__headers__={})

    def set_header(self, key, value):
        self["__headers__"][key] = value

    def get_header(self, key, default=None):
        return self["__headers__"].get(key, default)


class Context:
    """Sticky properties are the server's, one dictionary for all contexts."""

    def __init__(self, sticky, peer=None, name=None):
        self.sticky, self.peer, self.name = sticky, peer, name

    def get_prop(self, key, default=None):
        return self.sticky.get(key, default)

    def set_prop(self, key, value, private=True, sticky=True):
        assert private
        self.sticky[key] = value

    def get_peer_context(self):
        return self.peer

    def get_identity_name(self):
        return self.name


class DXOFilter:
    def __init__(self, supported_data_kinds, data_kinds_to_filter):
        self.data_kinds = data_kinds_to_filter or supported_data_kinds

    def set_prop(self, key, value):
        setattr(self, key, value)

    def get_prop(self, key, default=None):
        return getattr(self, key, default)

    def process(self, shareable, fl_ctx):
        content = shareable.get("DXO")
        if content and content["data"] and content["kind"] in self.data_kinds:
            dxo = DXO(content["kind"], content["data"], content["meta"])
            assert self.process_dxo(dxo, shareable, fl_ctx) is None
        return shareable


FAKES = {
    "nvflare": {},
    "nvflare.apis": {},
    "nvflare.apis.dxo": {
        "DXO": DXO,
        "DataKind": types.SimpleNamespace(WEIGHTS="WEIGHTS", WEIGHT_DIFF="WEIGHT_DIFF"),
        "MetaKey": types.SimpleNamespace(NUM_STEPS_CURRENT_ROUND="NUM_STEPS_CURRENT_ROUND"),
    },
    "nvflare.apis.dxo_filter": {"DXOFilter": DXOFilter},
    "nvflare.apis.filter": {
        "FilterChainType": types.SimpleNamespace(TASK_DATA_CHAIN="task_data", TASK_RESULT_CHAIN="task_result"),
        "FilterContextKey": types.SimpleNamespace(CHAIN_TYPE="__chain_type"),
    },
    "nvflare.app_common": {},
    "nvflare.app_common.app_constant": {
        "AppConstants": types.SimpleNamespace(CURRENT_ROUND="current_round", GLOBAL_MODEL="global_model")
    },
}


def fake_contexts():
    sticky = {}
    return lambda client: Context(sticky, Context({}, name=client))


def real_contexts():
    manager_of = importlib.import_module("nvflare.apis.fl_context").FLContextManager
    server = manager_of(identity_name="server", job_id="job")

    def context(client):
        fl_ctx = server.new_context()
        fl_ctx.set_peer_context(manager_of(identity_name=client, job_id="job").new_context())
        return fl_ctx

    return context


@pytest.fixture(params=["stand-ins", "nvflare"])
def flare(request, monkeypatch):
    """The integration, imported afresh, with DXO and a function that makes a server's contexts of one client."""
    if request.param == "nvflare":
        pytest.importorskip("nvflare")
        contexts = real_contexts()
    else:
        for name, content in FAKES.items():
            module = types.ModuleType(name)
            module.__dict__.update(content)
            monkeypatch.setitem(sys.modules, name, module)
        contexts = fake_contexts()
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    module = importlib.import_module(MODULE)
    yield types.SimpleNamespace(
        RecordUpdates=module.RecordUpdates,
        DXO=importlib.import_module("nvflare.apis.dxo").DXO,
        context=contexts,
    )
    sys.modules.pop(MODULE, None)


def tensors(seed):
    generator = np.random.default_rng(seed)
    return {
        "fc.weight": generator.normal(size=(4, 6)).astype(np.float32),
        "fc.bias": generator.normal(size=4).astype(np.float32),
    }


def chain(flare, folder, chain_type, **options):
    recorder = flare.RecordUpdates(str(folder), **options)
    recorder.set_prop("__chain_type", chain_type)
    return recorder


def shareable_of(flare, kind, named, meta=None, **headers):
    shareable = flare.DXO(kind, data=named, meta=meta or {}).to_shareable()
    for key, value in headers.items():
        shareable.set_header(key, value)
    return shareable


def recorded(folder, client, server_round=0):
    return load_update(folder / f"round-{server_round:04d}" / f"client-{client}.safetensors")


def assert_same_tensors(left, right):
    assert sorted(left) == sorted(right)
    for name in left:
        assert left[name].dtype == right[name].dtype
        np.testing.assert_array_equal(left[name], right[name])


@pytest.mark.parametrize(("data_kind", "kind"), [("WEIGHTS", "weights"), ("WEIGHT_DIFF", "delta")])
def test_what_was_sent_and_what_came_back_are_recorded_and_pass_unchanged(flare, tmp_path, data_kind, kind):
    out, back = (chain(flare, tmp_path, name, metadata={"lr": 0.1}) for name in ("task_data", "task_result"))
    for client in ("site-1", "site-2"):
        task = shareable_of(flare, "WEIGHTS", tensors(len(client)), current_round=2)
        before = copy.deepcopy(task)
        assert out.process(task, flare.context(client)) is task
        np.testing.assert_equal(task, before)
    for seed, client in enumerate(("site-1", "site-2")):
        result = shareable_of(flare, data_kind, tensors(seed), {"NUM_STEPS_CURRENT_ROUND": 1})
        before = copy.deepcopy(result)
        assert back.process(result, flare.context(client)) is result
        np.testing.assert_equal(result, before)
        update = recorded(tmp_path, client, server_round=2)
        assert update.kind == kind
        assert (update.metadata["lr"], update.metadata["local_steps"]) == ("0.1", "1")
        assert_same_tensors(update.global_tensors, tensors(len(client)))
        assert_same_tensors(update.client_tensors, tensors(seed))


def test_each_client_is_paired_with_what_it_was_sent(flare, tmp_path):
    out, back = (chain(flare, tmp_path, name) for name in ("task_data", "task_result"))
    for server_round in (0, 1):
        for seed, client in enumerate("ab"):
            task = shareable_of(flare, "WEIGHTS", tensors(10 * server_round + seed), current_round=server_round)
            out.process(task, flare.context(client))
            task["DXO"]["data"].clear()  # as a filter further on may
        for client in "ba":
            # A round that the client claims counts for nothing.
            result = shareable_of(flare, "WEIGHTS", tensors(99), current_round="../7")
            back.process(result, flare.context(client))
        for seed, client in enumerate("ab"):
            sent = recorded(tmp_path, client, server_round).global_tensors
            assert_same_tensors(sent, tensors(10 * server_round + seed))


def test_the_workflows_global_model_serves_where_nothing_was_seen_to_be_sent(flare, tmp_path):
    fl_ctx = flare.context("site-1")
    fl_ctx.set_prop("global_model", {"weights": tensors(0), "meta": {}}, private=True, sticky=True)
    fl_ctx.set_prop("current_round", 5, private=True, sticky=True)
    result = shareable_of(flare, "WEIGHT_DIFF", tensors(1))
    chain(flare, tmp_path, "task_result", names=["a.weight", "a.bias"]).process(result, fl_ctx)
    update = recorded(tmp_path, "site-1", server_round=5)
    np.testing.assert_array_equal(update.global_tensors["a.weight"], tensors(0)["fc.weight"])
    np.testing.assert_array_equal(update.client_tensors["a.bias"], tensors(1)["fc.bias"])


def test_without_the_model_that_was_sent_it_says_where_to_put_the_filter(flare, tmp_path, caplog):
    result = shareable_of(flare, "WEIGHTS", tensors(1))
    assert chain(flare, tmp_path, "task_result").process(result, flare.context("site-1")) is result
    assert "put this filter among the task_data_filters of the server too" in caplog.text
    assert not list(tmp_path.iterdir())


def test_damaged_answers_are_logged_and_pass(flare, tmp_path, caplog):
    fl_ctx = flare.context("../site")
    chain(flare, tmp_path, "task_data").process(shareable_of(flare, "WEIGHTS", tensors(0)), fl_ctx)
    back = chain(flare, tmp_path, "task_result")
    for named in ({"fc.weight": np.ones((2, 2))}, {"fc.weight": [[1.0], [2.0, 3.0]]}, {"other": np.ones(3)}):
        result = shareable_of(flare, "WEIGHTS", named)
        assert back.process(result, fl_ctx) is result
    assert caplog.text.count("round 0, client ../site: the update was not recorded: ") == 3
    assert not list(tmp_path.glob("*/*"))
    back.process(shareable_of(flare, "WEIGHTS", tensors(1)), fl_ctx)
    assert [path.name for path in tmp_path.glob("*/*")] == ["client-.._site.safetensors"]


def test_metrics_are_none_of_its_business(flare, tmp_path, caplog):
    result = shareable_of(flare, "METRICS", {"loss": 1.0})
    assert chain(flare, tmp_path, "task_result").process(result, flare.context("site-1")) is result
    assert not list(tmp_path.iterdir())
    assert "not recorded" not in caplog.text


def test_wrong_options_are_refused_when_the_server_starts(flare, tmp_path):
    with pytest.raises(UpdateError, match="lr is 'fast'; expected a positive number"):
        flare.RecordUpdates(str(tmp_path), metadata={"lr": "fast"})
    (tmp_path / "file").write_text("")
    with pytest.raises(UpdateError, match="cannot make the folder"):
        flare.RecordUpdates(str(tmp_path / "file"))


def test_without_nvflare_the_import_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "nvflare", None)
    monkeypatch.setitem(sys.modules, "nvflare.apis", None)
    monkeypatch.setitem(sys.modules, "nvflare.apis.dxo", None)
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    with pytest.raises(ImportError, match=r"needs NVFlare: pip install 'spear-jax\[nvflare\]'"):
        importlib.import_module(MODULE)
