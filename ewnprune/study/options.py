"""Whether ``ewnprune fit`` takes the options of the runs, asked before anything is written."""

import io
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace

from ewnprune.callback import WeightNormPruning
from ewnprune.callback.command import CommandLine, run
from ewnprune.errors import UsageError, nearest
from ewnprune.pruning.score_names import find_scores
from ewnprune.study.labels import Label
from ewnprune.study.plan import Run
from ewnprune.study.refusals import refuse_what_no_run_can


def check_options(runs: Iterable[Run], own: Iterable[str]) -> None:
    """Refuse options that a run would fail with as it starts; nothing is trained or written.

    Of the methods that come with the package one is tried, since what differs in them is known.

    Args:
        runs: the runs that are to do.
        own: the names of the study's own methods.

    Raises:
        UsageError: ``fit`` has no such option, or takes no such value; there is no such score; or
            a run of a study cannot have it.
    """
    distinct: dict[Any, Mapping[str, Any]] = {}
    scores: set[Any] = set()
    for each in runs:
        refuse_what_no_run_can(each.config, each.part)
        scores |= {*(each.config.get("prune") or {}).get("scores", ())}
        label = Label.parse(each.method)
        mine = (label.method, label.candidate, each.part) if label.method in own else None
        distinct.setdefault((label.settings, mine), each.config)
    if not distinct:
        return
    if scores:
        _usable(find_scores, sorted(scores, key=str))
    known = _as_fit_reads({})
    for config in distinct.values():
        _refuse_unknown(config, known)
        _as_fit_reads(config)


def _refuse_unknown(config: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Refuse names that are in no group; jsonargparse says it of classes, and says nothing else."""
    every = [*known]
    for group, options in known.items():
        if isinstance(options, Mapping) and "class_path" not in options:
            every += [f"{group}.{name}" for name in options]
    for name, value in config.items():
        inside = isinstance(known.get(name), Mapping) and "class_path" not in known[name]
        given = [name]
        if inside and isinstance(value, Mapping):
            given = [f"{name}.{option}" for option in value]
        for option in given:
            if option not in every:
                meant = nearest(f"--{option}", [f"--{other}" for other in every])
                raise UsageError(f"ewnprune fit has no option --{option}{meant}")


def _as_fit_reads(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options with all that ``fit`` has by default, as it prints them.

    Raises:
        UsageError: there are others, or values that pruning does not take.
    """
    found: dict[str, Any] = {}

    class Read(CommandLine):
        """Ends where the options are read: nothing is run, and only the callback made."""

        def parse_arguments(self, parser: Any, args: Any) -> None:
            super().parse_arguments(parser, args)
            text = self._subcommand_parsers["fit"].dump(self.config.fit, skip_none=False)
            found.update(yaml.safe_load(text))
            found["prune"].setdefault("recipe", None)  # it is spelled out by now
            alone = ArgumentParser(exit_on_error=False)
            alone.add_class_arguments(WeightNormPruning, "prune")
            given = Namespace(prune=self.config.fit.prune)  # type: ignore[no-untyped-call]
            _usable(alone.instantiate_classes, given)
            raise SystemExit

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(yaml.safe_dump(dict(config)), encoding="utf-8")
        # the user's modules may print when they are imported
        try:
            with redirect_stdout(io.StringIO()):
                run(["fit", "--config", str(path)], Read)
        except SystemExit as done:
            if done.code:
                raise
    return found


def _usable(make: Callable[[Any], Any], given: Any) -> None:
    """Make something of options, or say as an error of usage why they cannot be."""
    try:
        make(given)
    except (ValueError, TypeError) as error:
        raise UsageError(str(error)) from error
