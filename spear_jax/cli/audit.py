"""``spear-jax audit``: from what a server has to the page, in one command that goes on where it was stopped."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from spear_jax.activations import named
from spear_jax.audit import record
from spear_jax.audit.defended import defend_each
from spear_jax.audit.graph_one import audit_graph_update
from spear_jax.audit.path import audit_update, is_whole
from spear_jax.audit.prepare import Models, bundle_into, exposures
from spear_jax.audit.text_one import Returned, audit_text_update, read_returned, read_sent
from spear_jax.cli import options
from spear_jax.cli.audit_lines import AuditProgress, ten_lines
from spear_jax.cli.bundle import what_came_back
from spear_jax.cli.family import GRAPHS, refuse_others
from spear_jax.cli.output import EXIT_COMPLETE, EXIT_INCOMPLETE, EXIT_LEAK, emit
from spear_jax.config import ReconstructConfig
from spear_jax.defences.trials import TRIALS, Trial, read_trials
from spear_jax.errors import SpearError
from spear_jax.report.folder import make_report, make_reports
from spear_jax.update.bundle_file import load_update

AUDIT = "audit.json"
_EVERY = ("update_file", "kind", "lr", "out", "seed", "is_failing", "as_json")
# What goes with --model, and with --features.
TEXT, OF_GRAPHS = (*_EVERY, "model", "adapter", "is_defended"), (*_EVERY, "features")
NOT_OF_GRAPHS = "none is tried on updates of graph networks; the page says what is known to stop the attack"


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("audit")(audit)


def audit(
    context: options.Context,
    update_file: Annotated[
        Path | None,
        typer.Argument(help="Update bundle, or the folder of rounds that a recorder wrote.", metavar="UPDATE"),
    ] = None,
    before: Annotated[Path | None, typer.Option(help="Model that the server sent, instead of UPDATE.")] = None,
    after: Annotated[Path | None, typer.Option(help="What came back: the model after the client's round.")] = None,
    gradient: Annotated[Path | None, typer.Option(help="A file of gradients, instead of --after.")] = None,
    kind: Annotated[
        str | None, typer.Option(help="What came back, where it is not said: weights, delta or gradient.")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate of the client's SGD.")] = None,
    local_steps: Annotated[int | None, typer.Option(help="Its number of local steps, with --before.")] = None,
    num_examples: Annotated[int | None, typer.Option(help="Samples in the batch, where known, with --before.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Weight decay of the client's SGD, with --before.")] = None,
    activation: options.Between = None,
    model: options.Model = None,
    adapter: options.Adapter = None,
    features: options.Features = None,
    out: Annotated[Path, typer.Option(help="Folder to write; a second run goes on with what it holds.")] = Path(
        "audit"
    ),
    seed: options.Seed = 0,
    is_defended: Annotated[
        bool, typer.Option("--defences/--no-defences", help="Try every defence on every update.")
    ] = True,
    max_seconds: Annotated[float, typer.Option(help="Time budget of each trial of a defence.")] = 10.0,
    is_failing: Annotated[
        bool, typer.Option("--fail-on-leak", help="Exit with code 4 where any sample was certified.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Audit an update, from what a server has to the page.

    Bundles the models, inspects, reconstructs, tries the defences and makes the page, of one update or of every one of
    a folder. Stopped, it goes on where it was when the same command is given again.

    Exit codes: 0 every sample was certified; 3 not all were; with --fail-on-leak 4 where any was; 2 wrong arguments or
    files; 1 a fault of ours.
    """
    family = Family(model, adapter, features)
    _check_family(context, family)
    models = [after, gradient, local_steps, num_examples, weight_decay]
    _check_source(update_file, before, models, (kind, lr), model or features)
    if not 0 < max_seconds < math.inf:
        raise SpearError(f"--max-seconds is {max_seconds}; expected a positive number.")
    with AuditProgress() as progress:
        file = update_file
        if before is not None:
            progress.step("bundle")
            came_back, kind = what_came_back(after, gradient, kind)
            made = {
                "lr": lr, "local_steps": local_steps, "num_examples": num_examples, "weight_decay": weight_decay,
                "metadata": {} if activation is None else {"activation": str(named(activation))},
            }  # fmt: skip
            file = bundle_into(Models(before, came_back, kind, made), out)
        assert file is not None  # as _check_source saw to
        progress.step("inspect")
        inspected = exposures(file) if family.is_dense and file.is_file() else []
        progress.step("reconstruct")
        if family.is_dense:
            config = ReconstructConfig(activation=activation)
            content, read = (
                audit_update(file, out, config=config, seed=seed, resume=True, on_round=progress),
                load_update,
            )
        else:
            content, read = _reconstructed(family, file, out, Returned(kind, lr, resume=True), progress)
        places, tried = _places(content, file, out), {}
        if is_defended and features is None:
            progress.step("defences")
            tried = defend_each(places, read, progress.update, seed=seed, max_seconds=max_seconds)
        progress.step("report")
        page = Path(make_reports(out, out)["page"]) if "updates" in content else make_report(out, None)[0]
    trials: dict[str, list[Trial]] = {name: read_trials(folder / TRIALS) for name, _, folder in places}
    untried = NOT_OF_GRAPHS if features is not None else None if is_defended else "not tried (--no-defences)"
    lines = ten_lines(content, inspected, trials, tried, page, untried)
    kept = {
        "update": str(file), "page": str(page), "is_whole": is_whole(content), "lines": lines,
        "certified": content["certified"], "inspected": inspected, "defences": tried,
    }  # fmt: skip
    record.write_json(out / AUDIT, kept)
    emit(kept | {"out": str(out), "result": content}, as_json, lambda: typer.echo("\n".join(lines)))
    if is_failing and content["certified"]:
        raise typer.Exit(EXIT_LEAK)
    raise typer.Exit(EXIT_COMPLETE if is_whole(content) else EXIT_INCOMPLETE)


class Family(NamedTuple):
    """What says that the update is not of dense layers: a language model with its adapter, or features of nodes."""

    model: Path | None
    adapter: Path | None
    features: Path | None

    @property
    def is_dense(self) -> bool:
        """Whether nothing says so."""
        return self.model is None and self.features is None


def _check_family(context: options.Context, family: Family) -> None:
    """Refuse options that do not go with the kind of update."""
    if family.model is not None:
        refuse_others(context, TEXT, "--model")
    elif family.features is not None:
        refuse_others(context, OF_GRAPHS, "--features", GRAPHS)
    elif family.adapter is not None:
        raise SpearError("--adapter goes with a language model; give its folder with --model.")


def _reconstructed(
    family: Family, file: Path, out: Path, returned: Returned, progress: AuditProgress
) -> tuple[dict[str, Any], Callable[[Path], Any]]:
    """What came of text or graphs, and how an update of theirs is read."""
    if family.features is not None:
        return audit_graph_update(file, family.features, out, returned=returned, on_stage=progress.stage), load_update
    assert family.model is not None
    sent = read_sent(family.model, family.adapter)
    content = audit_text_update(
        file, family.model, out, adapter=family.adapter, returned=returned, on_stage=progress.stage
    )
    return content, lambda path: read_returned(path, sent, returned)


def _check_source(
    update_file: Path | None, before: Path | None, beside: list[Any], said: tuple[Any, Any], family: Path | None
) -> None:
    """Refuse what names no update, or two, and what goes with model files alone."""
    if update_file is None and before is None:
        raise SpearError("nothing to audit: give an update or a folder of them, or --before and --after.")
    if update_file is not None and before is not None:
        raise SpearError(f"{update_file} and --before exclude each other; give the update, or the models.")
    if before is None and any(value is not None for value in beside):
        raise SpearError(
            "--after, --gradient, --local-steps, --num-examples and --weight-decay go with --before; an update says so "
            "itself."
        )
    if before is None and family is None and any(value is not None for value in said):
        raise SpearError("--kind and --lr go with --before, --model or --features; an update of dense layers says so.")


def _places(content: dict[str, Any], file: Path, out: Path) -> list[tuple[str, Path, Path]]:
    """Name, file and folder of every update that was reconstructed."""
    if "updates" not in content:
        return [(file.name, file, out)]
    done = [entry for entry in content["updates"] if entry["status"] is not None]
    return [(entry["update"], file / entry["update"], out / entry["folder"]) for entry in done]
