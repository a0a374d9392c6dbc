"""spear_jax: exact gradient inversion of whole batches, to audit what a federated-learning update leaks.

SPEAR (Dimitrov, Baader, Mueller and Vechev, NeurIPS 2024) in JAX: the weight gradient of a fully connected layer
followed by ReLU has rank b and hides b sparse directions, which give back the batch of b inputs exactly. Behind the
gradients of a language model, full or of adapters, the same is done for text, and behind those of a graph network for
graphs.

Public are the names below, `spear_jax.config`, `spear_jax.testing`, `spear_jax.defences` and `spear_jax.integrations`;
everything else may change.
"""

from importlib.metadata import PackageNotFoundError, version

from spear_jax.attacks import reconstruct
from spear_jax.attacks.dense.copies import Copies, count_copies
from spear_jax.attacks.graphs.result import GraphResult
from spear_jax.attacks.text.result import TextResult
from spear_jax.audit.exposure import exposure
from spear_jax.audit.graph_one import audit_graph_update
from spear_jax.audit.path import audit_update, is_whole
from spear_jax.audit.text_one import audit_text_update
from spear_jax.client.batch import Batch
from spear_jax.client.dp_sgd import dp_sgd_update
from spear_jax.client.evaluate import Evaluation, evaluate
from spear_jax.client.gradient import simulate_update
from spear_jax.client.graph_batch import read_graphs
from spear_jax.client.graph_scores import score_graphs
from spear_jax.client.graph_simulate import simulate_graph_update
from spear_jax.client.load import demo_batch, load_batch
from spear_jax.client.local_training import LocalTraining, simulate_round
from spear_jax.client.models import MLP, init_params, train
from spear_jax.client.text_batch import TextBatch, read_texts
from spear_jax.client.text_scores import score_texts
from spear_jax.client.text_simulate import simulate_text_update
from spear_jax.client.truth import Truth
from spear_jax.config import ReconstructConfig
from spear_jax.devices import initialize_distributed
from spear_jax.errors import DataError, SpearError, UpdateError
from spear_jax.factorization import factorize
from spear_jax.graphs.architecture import Architecture as GraphArchitecture
from spear_jax.graphs.features import Features as GraphFeatures
from spear_jax.graphs.graph import Graph
from spear_jax.graphs.observation import GraphObservation
from spear_jax.language.observation import TextObservation
from spear_jax.normalization import Normalization
from spear_jax.observation import LayerObservation
from spear_jax.status import Status
from spear_jax.types import CandidatePool, Certificate, Factorization, Result, SearchStats
from spear_jax.update.adapters import read_adapter
from spear_jax.update.bundle import Update
from spear_jax.update.bundle_file import load_update, save_update
from spear_jax.update.graph_features import read_features
from spear_jax.update.graph_update import GraphUpdate, read_graph_update
from spear_jax.update.language_model import LanguageModel, read_language_model
from spear_jax.update.live_torch import from_torch
from spear_jax.update.make import ModelFile, make_update
from spear_jax.update.readers.model_files import read_model
from spear_jax.update.text_file import read_text_update
from spear_jax.update.text_update import TextUpdate

try:
    __version__ = version("spear-jax")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

__all__ = [
    "Batch",
    "CandidatePool",
    "Certificate",
    "Copies",
    "DataError",
    "Evaluation",
    "Factorization",
    "Graph",
    "GraphArchitecture",
    "GraphFeatures",
    "GraphObservation",
    "GraphResult",
    "GraphUpdate",
    "LanguageModel",
    "LayerObservation",
    "LocalTraining",
    "MLP",
    "ModelFile",
    "Normalization",
    "ReconstructConfig",
    "Result",
    "SearchStats",
    "SpearError",
    "Status",
    "TextBatch",
    "TextObservation",
    "TextResult",
    "TextUpdate",
    "Truth",
    "Update",
    "UpdateError",
    "__version__",
    "audit_graph_update",
    "audit_text_update",
    "audit_update",
    "count_copies",
    "demo_batch",
    "dp_sgd_update",
    "evaluate",
    "exposure",
    "factorize",
    "from_torch",
    "init_params",
    "initialize_distributed",
    "is_whole",
    "load_batch",
    "load_update",
    "make_update",
    "read_adapter",
    "read_features",
    "read_graph_update",
    "read_graphs",
    "read_language_model",
    "read_model",
    "read_text_update",
    "read_texts",
    "reconstruct",
    "save_update",
    "score_graphs",
    "score_texts",
    "simulate_graph_update",
    "simulate_round",
    "simulate_text_update",
    "simulate_update",
    "train",
]
