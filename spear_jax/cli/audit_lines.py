"""What ``spear-jax audit`` says: one display of its progress, and ten lines at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from spear_jax.audit.one import Progress
from spear_jax.cli.output import PLAIN_INTERVAL, SearchReporter
from spear_jax.defences.trials import Trial
from spear_jax.report.trials import trial_sentence

STEPS = ("bundle", "inspect", "reconstruct", "defences", "report")


class AuditProgress(SearchReporter):
    """The steps of an audit on stderr: one bar over all of them on a terminal, one plain line a step elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self._step = ""

    def __enter__(self) -> AuditProgress:
        super().__enter__()
        return self

    def step(self, name: str) -> None:
        """Say which step begins."""
        self._step = f"[{STEPS.index(name) + 1}/{len(STEPS)}] {name}"
        self._say("", is_told=True)

    def stage(self, sentence: str) -> None:
        """Say what a step does."""
        self._say(sentence)

    def update(self, name: str) -> Callable[[Trial], None]:
        """What is called with each trial of a defence against an update."""
        return lambda trial: self._say(f"{name}: {trial.defence}, {trial.leaked} of {trial.batch_size} leaked")

    def __call__(self, progress: Progress) -> None:
        """Say what a round of a search found."""
        self._say(self._line(progress))

    def _say(self, text: str, *, is_told: bool = False) -> None:
        line = f"{self._step}: {text}" if text else self._step
        if self._bar is not None:
            self._bar.update(self._task, description=line.replace("[", "\\["))
        elif is_told or time.monotonic() - self._last >= PLAIN_INTERVAL:
            self._last = time.monotonic()
            typer.echo(line, err=True)


def ten_lines(
    content: Mapping[str, Any],
    inspected: Sequence[Mapping[str, Any]],
    trials: Mapping[str, Sequence[Trial]],
    tried: Mapping[str, str | None],
    page: Path,
    untried: str | None,
) -> list[str]:
    """The summary of an audit.

    Args:
        content: the record of one update, or the summary of a folder.
        inspected: what each layer showed before the search, where that was asked.
        trials: of defences, by update.
        tried: by update, why no defence could be tried, None where they were.
        page: that was written.
        untried: why none was tried at all.
    """
    is_folder = "updates" in content
    seen = [entry.get("batch_size") or 0 for entry in content["updates"]] if is_folder else [_seen(content)]
    refused = sum(entry["status"] is None for entry in content["updates"]) if is_folder else 0
    spent = content.get("seconds") or content.get("stats", {}).get("seconds") or {}
    seconds = sum(entry["seconds"] or 0 for entry in content["updates"]) if is_folder else sum(spent.values())
    open_ = [sentence for sentence in tried.values() if sentence is not None]
    found = [entry for entry in inspected if entry["invertible"]]
    layers = f"{len(found)} of {len(inspected)} dense layers can be inverted" if inspected else "see the page"
    rows = {
        "Audited": content["folder"] if is_folder else content["update"],
        "Updates": f"{content['total'] if is_folder else 1}" + f", {refused} not inverted" * bool(refused),
        "Exposed": layers,
        "Visible": f"{sum(seen)} samples in the gradients",
        "Certified": f"{content['certified']} of {sum(seen)}, without knowing the originals",
        "Approximate": str(content.get("approximate", 0)),
        "Status": content["sentence"] if is_folder else f"{content['status']}: {content['message']}",
        "Defences": untried or _defences(trials, open_),
        "Search": f"{seconds:.1f} s",
        "Page": str(page),
    }
    return [f"{name:<12}{value}" for name, value in rows.items()]


def _seen(content: Mapping[str, Any]) -> int:
    return next(content[name] for name in ("batch_size", "num_sequences", "num_graphs") if name in content)


def _defences(trials: Mapping[str, Sequence[Trial]], open_: Sequence[str]) -> str:
    """Which defence stops it, of one update; of many how often each was tried."""
    told = [one for one in trials.values() if one]
    if not told:
        return f"not tried: {open_[0]}" if open_ else "not tried"
    if len(trials) == 1:
        return trial_sentence(told[0])
    more = f"; on {len(open_)} none could be" if open_ else ""
    return f"tried on {len(told)} updates{more}; each page says which would have stopped the attack"
