"""What users hold on to: the public names, import paths, commands and their options. Nothing here may go unsaid."""

import importlib

import jax
import pytest
import typer

import spear_jax as sj

NAMES = {
    "Batch", "CandidatePool", "Certificate", "Copies", "DataError", "Evaluation", "Factorization", "Graph",
    "GraphArchitecture", "GraphFeatures", "GraphObservation", "GraphResult", "GraphUpdate", "LanguageModel",
    "LayerObservation", "LocalTraining", "MLP", "ModelFile", "Normalization", "ReconstructConfig", "Result",
    "SearchStats", "SpearError", "Status", "TextBatch", "TextObservation", "TextResult", "TextUpdate", "Truth",
    "Update", "UpdateError", "audit_graph_update", "audit_text_update", "audit_update", "count_copies",
    "demo_batch", "dp_sgd_update", "evaluate", "exposure", "factorize", "from_torch", "init_params",
    "initialize_distributed", "is_whole", "load_batch", "load_update", "make_update", "read_adapter", "read_features",
    "read_graph_update", "read_graphs", "read_language_model", "read_model", "read_text_update", "read_texts",
    "reconstruct", "save_update", "score_graphs", "score_texts", "simulate_graph_update", "simulate_round",
    "simulate_text_update", "simulate_update", "train",
}  # fmt: skip
PATHS = {
    "spear_jax.config": ("ReconstructConfig", "DictionaryConfig", "Schedule"),
    "spear_jax.testing": ("Planted", "planted_problem"),
    "spear_jax.defences": ("DEFENCES", "Defence", "by_name"),
    "spear_jax.integrations": ("check_metadata", "listening", "make_folder", "received_update", "record"),
    "spear_jax.integrations.flower": ("RecordingStrategy", "show_update_mod"),
    "spear_jax.integrations.pytorch": ("StepRecorder",),
}
OPTIONS = {
    "audit": (
        "activation adapter after before defences fail-on-leak features gradient json kind local-steps lr max-seconds "
        "model no-defences num-examples out seed weight-decay"
    ),
    "demo": "activation batch-size depth dtype graphs image-size json max-seconds out seed text width",
    "simulate": (
        "activation adapter batch-size classes columns data depth dtype features graphs image-size images "
        "initialization json kind label-column learning-rate local-epochs lora-modules lora-rank loss lr mini-batch "
        "model momentum network normalize optimizer out pool readout seed texts train-steps truth weight-decay width"
    ),
    "bundle": "activation after before gradient json kind local-steps lr num-examples out weight-decay",
    "defend": "adapter defence json kind list lr max-seconds model out seed strength sweep",
    "inspect": "adapter features json kind layer layout lr model",
    "reconstruct": (
        "activation adapter also chunk-size coordinator distributed features fresh json kind layer layout "
        "local-device-ids lr mapper max-candidates max-seconds method model num-devices num-processes out process-id "
        "rank resume round-size sampler seed shard"
    ),
    "evaluate": "json out truth",
    "report": "json out redact truth",
    "merge": "json out update",
    "purge": "json yes",
    "bench sampling": "batch-size chunk-size json out rank repeats seed width",
    "bench search": "json out plot repeats seed",
}


def options_of(command, path=()):
    """The long options of a command and of those below it, by command."""
    if hasattr(command, "commands"):
        found = {}
        for name, below in command.commands.items():
            found |= options_of(below, (*path, name))
        return found
    opts = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    return {" ".join(path): " ".join(sorted({name[2:] for name in opts if name.startswith("--")} - {"help"}))}


def test_the_public_names_are_these():
    assert set(sj.__all__) == NAMES | {"__version__"}
    assert sj.__all__ == sorted(sj.__all__)
    assert [name for name in sj.__all__ if not hasattr(sj, name)] == []


@pytest.mark.parametrize("module", PATHS)
def test_documented_import_paths_hold(module):
    found = importlib.import_module(module)
    assert [name for name in PATHS[module] if not hasattr(found, name)] == []


def test_reconstruct_takes_the_observation_of_any_family(monkeypatch):
    from spear_jax.testing import planted_problem

    layer = planted_problem(3, 60, 20).observation
    assert sj.reconstruct(layer, jax.random.key(0)).certificate.exact.all()
    with pytest.raises(sj.SpearError, match="give a key"):
        sj.reconstruct(layer)
    text, result, calls = object.__new__(sj.TextObservation), object.__new__(sj.TextResult), []
    monkeypatch.setattr("spear_jax.attacks.reconstruct_text", lambda *given, **more: calls.append(more) or result)
    assert sj.reconstruct(text, on_stage=None) is result
    assert calls == [{"on_stage": None}]


def test_commands_and_options_are_these():
    from spear_jax.cli import build_app

    found = options_of(typer.main.get_command(build_app()))
    assert found == OPTIONS
