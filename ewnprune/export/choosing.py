"""Which score and which level, and what the network that comes out is worth."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from ewnprune.curve.by_data import facts_by_data
from ewnprune.curve.classes import classifies
from ewnprune.curve.curve import Curve
from ewnprune.curve.points import CurvePoint
from ewnprune.curve.sweep import sparsity_curve
from ewnprune.export.batches import Batches
from ewnprune.export.trained import Trained
from ewnprune.model.preserve import evaluating
from ewnprune.model.tensors import clone
from ewnprune.pruning.score_names import asked_of_data


def choose(
    trained: Trained,
    val: Batches | None,
    scores: Sequence[str],
    levels: Mapping[str, float] | None,
    max_drop: float | None,
    removal: Mapping[str, Any],
) -> tuple[str, float, str]:
    """Score and level, and how they were chosen: on validation data, if there was a choice.

    Args:
        trained: the run.
        val: its validation data.
        scores: those to choose from.
        levels: the level of each of them, or of those that rank neurons; or None.
        max_drop: or the points of a hundred that may be lost.
        removal: what else `remove_neurons` is told.

    Raises:
        ValueError: there is nothing to choose with, or no score that ranks neurons.
    """
    if levels is not None:
        scores = [*levels]
        if len(scores) == 1 or val is None:
            return scores[0], levels[scores[0]], "as asked for"
    if val is None:
        raise ValueError(
            "--max_drop needs validation data to choose with, and the run's data have none: give "
            "a --sparsity"
        )
    asked = sorted({0.0, *(trained.pruning.sparsities if levels is None else levels.values())})
    unit = "inputs" if removal.get("inputs") else "neurons"
    curve = _curve(trained, trained.model, val, asked, scores, removal).where(unit=unit)
    found = []
    for name in scores:
        series = curve.where(score=name)
        if not len(series):
            continue
        level = series.largest_sparsity(max_drop) if levels is None else levels[name]  # type: ignore[arg-type]
        (point,) = series.where(sparsity=level)
        # where levels are chosen the larger first, then the better accuracy, then the score named
        # first; where they are given each is as good as the others
        rank = level if levels is None else 0
        found.append((rank, point.measure(), -scores.index(name), level))
    if not found:
        raise ValueError(
            f"scores {[*scores]} rank single weights: give a --score that ranks neurons, such as "
            "norm"
        )
    _, _, place, level = max(found)
    what = "score" if max_drop is None else f"score and level, within {max_drop:g} points"
    return scores[-place], level, f"{what}, on validation data"


def accuracies(
    trained: Trained,
    networks: Mapping[str, nn.Module],
    batches: Batches,
    removal: Mapping[str, Any],
) -> dict[str, float | None]:
    """The accuracy of each of these networks, as they are; None where the task has none."""
    found = {}
    for name, network in networks.items():
        point = None
        if _measurable(trained, network, batches):
            point = _as_it_is(trained, network, batches, removal)
        found[name] = None if point is None else point.accuracy
    return found


def from_data(
    trained: Trained, val: Batches | None, scores: Sequence[str], removal: Mapping[str, Any]
) -> dict[str, Any]:
    """What scores and the scope go by that go by data: that of the validation data.

    Raises:
        ValueError: there are none.
    """
    how = trained.pruning.measuring
    wanted = asked_of_data(scores, how.scope)
    if not wanted:
        return {}
    if val is None:
        raise ValueError(f"{wanted[0]} goes by validation data, and the run's data have none")
    names = ("loss_fn", "forward", "batch")
    arguments = {name: getattr(how, name) for name in names}
    options = {"metric": how.metric, **removal}
    return facts_by_data(trained.model, val, scores, how.scope, how.sparsities, arguments, options)


def check_drop(measured: Mapping[str, float | None], max_drop: float) -> None:
    """Hold the network that was built against what was asked for.

    Args:
        measured: accuracy ``"before"`` and ``"after"``, on validation data.
        max_drop: the points of a hundred that may be lost.

    Raises:
        ValueError: more is lost.

    >>> check_drop({"before": 0.98, "after": 0.975}, 0.5)
    """
    before, after = measured["before"], measured["after"]
    if before is None or after is None or not after >= before - max_drop / 100 - 1e-9:
        raise ValueError(
            f"the smaller network's accuracy on validation data is {_percent(after)}, that of the "
            f"dense one {_percent(before)}: more than the {max_drop:g} points of --max_drop are "
            "lost, so nothing is written; give a --sparsity to have it all the same"
        )


def _as_it_is(
    trained: Trained, network: nn.Module, batches: Batches, removal: Mapping[str, Any]
) -> CurvePoint:
    # what scores go by is known of the dense network alone, and a network that picks its inputs has
    # no more to give; nothing goes here
    gone = ("initial_norms", "measured", "scope", "max_per_layer", "sensitivity", "inputs")
    rest = {key: value for key, value in removal.items() if key not in gone}
    (point,) = _curve(trained, network, batches, (0.0,), ["norm"], rest)
    return point


def _curve(
    trained: Trained,
    network: nn.Module,
    batches: Batches,
    levels: Iterable[float],
    scores: Sequence[str],
    removal: Mapping[str, Any],
) -> Curve:
    measuring = trained.pruning.measuring
    return sparsity_curve(
        network,
        batches,
        levels,
        scores,
        metric=measuring.metric,
        loss_fn=measuring.loss_fn,
        **removal,
    )


def _measurable(trained: Trained, network: nn.Module, batches: Batches) -> bool:
    measuring = trained.pruning.measuring
    if measuring.metric is not None or measuring.loss_fn is not None:
        return True
    with evaluating(network, batches.loader):
        inputs, targets = measuring.batch(next(iter(batches)))
        return classifies(measuring.forward(network, clone(inputs)), targets)


def _percent(accuracy: float | None) -> str:
    return "not measured" if accuracy is None else f"{100 * accuracy:.2f} %"
