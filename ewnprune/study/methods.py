"""The methods that `ewnprune compare` knows by name, and how a study spells out others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from ewnprune.callback.names import score_name
from ewnprune.errors import UsageError, nearest
from ewnprune.recipes.prunable import LEVELS
from ewnprune.study.labels import check_names

# a neuron without weights may be kept as a constant: the last one counts that
NEURON_SCORES = ("norm", "norm_product", "norm_with_bias_product")


@dataclass
class Method:
    """A way to train and to rank, as a part of the options of ``ewnprune fit``.

    Attributes:
        fit: options laid over those of the study; ``trainer.callbacks`` are added to its own.
        scores: how neurons are ranked; of several, validation data choose one.
        candidates: further options by label, such as strengths of a penalty; validation data
            choose one.
        parts: further options by level: the run for a level gives the curve's point there, of its
            network as it is trained; or at the one level that its ``prune.sparsities`` name.
        trains: the method whose runs are taken, where this one differs in the scores alone.
    """

    fit: dict[str, Any] = field(default_factory=dict)
    scores: Sequence[str] = NEURON_SCORES
    candidates: dict[str, dict[str, Any]] = field(default_factory=dict)
    parts: dict[float, dict[str, Any]] = field(default_factory=dict)
    trains: str = ""


def _callback(path: str, **options: Any) -> dict[str, Any]:
    return {"trainer": {"callbacks": [{"class_path": path, "init_args": options}]}}


def _parametrization(name: str | None, **options: Any) -> dict[str, Any]:
    given = {"init_args": options} if options else {}
    made = {"class_path": f"ewnprune.{name}", **given} if name else None
    return {"prune": {"parametrization": made}}


def _untrained(*scores: str, trains: str = "none") -> Method:
    return Method(_parametrization(None), scores, trains=trains)


def _penalized(name: str, strengths: Sequence[float], under: dict[str, Any]) -> Method:
    """Training with a penalty, whose strength is chosen on validation data."""
    callbacks = {f"{x:g}": _callback(f"ewnprune.{name}", strength=x) for x in strengths}
    return Method(under, candidates=callbacks)


def _ham(per_neuron: bool, pairs: Sequence[tuple[float, float]]) -> Method:
    candidates = {
        f"alpha={alpha:g} beta={beta:g}": _callback(
            "ewnprune.HAM", alpha=alpha, beta=beta, per_neuron=per_neuron
        )
        for alpha, beta in pairs
    }
    return Method(_parametrization(None), candidates=candidates)


def _powerpropagation(per_neuron: bool) -> Method:
    exponents = (1.5, 2, 3, 4)
    made = {
        f"{a:g}": _parametrization("Powerpropagation", exponent=float(a), per_neuron=per_neuron)
        for a in exponents
    }
    return Method(candidates=made)


def _nested(
    under: dict[str, Any], penalty: str, strengths: Sequence[float], *callbacks: dict[str, Any]
) -> Method:
    """Nested training at the dose of docs/recipe.md, with a penalty that is off in the end."""
    nested = {
        "class_path": "ewnprune.NestedTraining",
        "init_args": {"share": 0.5, "sparsities": [*LEVELS]},
    }
    fit = {**under, "trainer": {"callbacks": [*callbacks, nested]}}
    made = {f"{x:g}": _callback(f"ewnprune.{penalty}", strength=x, until=0.8) for x in strengths}
    return Method(fit, candidates=made)


METHODS: Mapping[str, Method] = {
    "none": Method(_parametrization(None)),
    "swn": Method(_parametrization("SWN")),
    "ewn": Method(_parametrization("EWN")),
    "group_lasso": _penalized("GroupLasso", (1e-3, 2e-3, 3e-3, 6e-3), _parametrization(None)),
    "log_sum": _penalized("LogSumPenalty", (3e-4, 1e-3, 2e-3, 4e-3), _parametrization(None)),
    "ewn_log_norm": _penalized("LogNormPenalty", (5e-4, 1e-3, 3e-3, 1e-2), _parametrization("EWN")),
    **{
        f"d_gating_{depth}": _penalized(
            "FactorDecay", (1e-3, 2e-3, 3e-3, 6e-3), _parametrization("DGating", depth=depth)
        )
        for depth in (2, 3, 4)
    },
    "ham": _ham(False, ((200, 1e-3), (200, 3e-2), (20, 3e-2), (20, 1e-1))),
    "ham_neurons": _ham(True, ((10, 1e-3), (10, 3e-2), (1, 3e-2), (1, 1e-1))),
    "powerprop": _powerpropagation(per_neuron=False),
    "powerprop_neurons": _powerpropagation(per_neuron=True),
    "group_hs": _penalized("GroupHS", (3e-3, 1e-2, 3e-2, 1e-1), _parametrization(None)),
    "network_slimming": _penalized(
        "NetworkSlimming", (3e-4, 1e-3, 3e-3, 1e-2), _parametrization(None)
    ),
    "nested_lasso": _nested(_parametrization(None), "GroupLasso", (0, 1e-3, 3e-3, 6e-3)),
    "prunable": _nested(
        _parametrization("EWN"),
        "LogNormPenalty",
        (0, 1e-4, 3e-4, 1e-3),
        {"class_path": "ewnprune.AlphaLearningRate", "init_args": {"rate": 10.0}},
    ),
    "random": _untrained("random"),
    "random_ratios": _untrained("ewnprune.scores.norm_shuffled"),
    "magnitude": _untrained("magnitude"),
    "ham_weights": _untrained("magnitude", trains="ham"),
    "powerprop_weights": _untrained("magnitude", trains="powerprop"),
    "dense": Method(
        _parametrization(None),
        scores=("norm",),
        parts={
            level: _callback("ewnprune.study.dense.DenseOfPrunedSize", sparsity=level)
            for level in (0.5, 0.8, 0.9, 0.95, 0.98)
        },
    ),
}
"""By the name on the command line.

none: plain training. swn, ewn: weight normalization of the hidden layers. With a strength or the
like that validation data choose among four: group_lasso and log_sum, plain training with a proximal
penalty on the norms of neurons or on their logarithms; ewn_log_norm, EWN with the latter;
d_gating_2, d_gating_3 and d_gating_4, D-Gating of that depth with decay of its factors; ham and
powerprop, per weight as in their papers, of which ham_weights and powerprop_weights remove single
weights by absolute value, and ham_neurons and powerprop_neurons, per neuron;
group_hs, the Hoyer-square measure of norms; network_slimming, L1 on the scales of BatchNorms;
nested_lasso and prunable, half of the images seeing pruned networks, plain layers with group lasso,
and the recipe under EWN.
random: neurons of the plainly trained network removed at random; random_ratios: the same with as
many per layer as ``norm`` would take; magnitude: single weights by absolute value. dense: networks
of the pruned size trained from scratch.
"""


def find_methods(wanted: str | list[str], own: Mapping[str, Method]) -> dict[str, Method]:
    """Methods by name, a study's own before the known ones.

    Args:
        wanted: names, or one string with commas between.
        own: what a study defines.

    Raises:
        UsageError: an unknown name, one that no label can hold, one given twice, or none; or one
            that trains as an unknown one.

    >>> list(find_methods("none,ewn", {}))
    ['none', 'ewn']
    """
    names = [n.strip() for n in wanted.split(",")] if isinstance(wanted, str) else wanted
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UsageError(f"--methods {wanted!r}: expected names, such as none,ewn")
    known = {**METHODS, **own}
    for name in names:
        if name not in known:
            raise UsageError(
                f"--methods: unknown method {name!r}: choose among {', '.join(known)}, or define "
                "it under `own` in the study's YAML file"
            )
        if known[name].trains not in ("", *known):
            raise UsageError(
                f"own method {name!r}: trains: there is no method {known[name].trains!r}"
                f"{nearest(known[name].trains, known)}"
            )
        check_names(name, known[name].candidates)
    if len(set(names)) < len(names) or not names:
        raise UsageError(
            f"--methods {','.join(names)}: expected each method once, and one at least"
        )
    return {name: known[name] for name in names}


def parse_methods(own: Mapping[str, Mapping[str, Any]]) -> dict[str, Method]:
    """A study's own methods, from its YAML.

    Raises:
        UsageError: an unknown field, scores that are no list, or a way to train beside ``trains``.
    """
    if not isinstance(own, Mapping):
        raise UsageError(f"own={own!r}: expected the methods by name, each with its fields")
    found = {}
    for name, options in own.items():
        known = {item.name for item in fields(Method)}
        if not isinstance(options, Mapping):
            raise UsageError(f"own method {name!r}: expected {sorted(known)}; got {options!r}")
        if set(options) - known or not isinstance(options.get("scores", ()), list | tuple):
            raise UsageError(
                f"own method {name!r}: expected {sorted(known)}, with a list of scores; "
                f"got {dict(options)}"
            )
        mappings = {key: options[key] for key in ("fit", "candidates", "parts") if key in options}
        inner = [v for key in ("candidates", "parts") for v in _values(mappings.get(key))]
        if not all(isinstance(value, Mapping) for value in (*mappings.values(), *inner)):
            raise UsageError(
                f"own method {name!r}: expected fit as options by name, and candidates and parts "
                f"as such options by name ({{}} for none); got {mappings}"
            )
        unused = [key for key, value in mappings.items() if value and options.get("trains")]
        if unused:
            raise UsageError(
                f"own method {name!r}: it takes the runs of {options['trains']!r}, and its "
                f"{' and '.join(unused)} would train nothing: leave out {' and '.join(unused)}, or "
                "trains"
            )
        made = Method(**options)
        found[name] = replace(made, scores=[score_name(score) for score in made.scores])
    return found


def _values(of: Any) -> list[Any]:
    return list(of.values()) if isinstance(of, Mapping) else []


def parse_seeds(seeds: str | int | list[int]) -> list[int]:
    """Seeds from ``"0-4"``, ``"0,2,7"``, a mix of both, or a list.

    Raises:
        UsageError: something else, or no seed.

    >>> parse_seeds("0-2,7")
    [0, 1, 2, 7]
    """
    if not isinstance(seeds, str | int | list):
        raise UsageError(f"--seeds {seeds!r}: expected numbers >= 0 such as 0-4 or 0,2,7")
    found: list[int] = []
    parts = seeds.split(",") if isinstance(seeds, str) else seeds
    for part in [parts] if isinstance(parts, int) else parts:
        first, dash, last = str(part).strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise UsageError(f"--seeds {seeds}: expected numbers >= 0 such as 0-4 or 0,2,7")
        if int(last or first) - int(first) > 10_000:
            raise UsageError(f"--seeds {seeds}: expected at most 10000 seeds at a time")
        found += range(int(first), int(last or first) + 1)
    if not found:
        raise UsageError(f"--seeds {seeds}: expected at least one seed, such as 0-4")
    return list(dict.fromkeys(found))
