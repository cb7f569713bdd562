"""What a comparison of pruning methods should report, and what a study lacks of it.

After Blalock et al., "What is the State of Neural Network Pruning?", section 6 and appendix B,
https://arxiv.org/abs/2003.03033.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from ewnprune.curve.curve import Curve
from ewnprune.study.labels import Label, seeds_of

if TYPE_CHECKING:
    from ewnprune.study.recorded import Recorded


@dataclass(frozen=True)
class Item:
    """One demand, whether the study meets it, and how or why not.

    Attributes:
        demand: what is asked for.
        met: whether it is there.
        note: how, or why not.
        mend: the command that would mend it; empty where it is met.
    """

    demand: str
    met: bool
    note: str
    mend: str = ""


def reporting_items(
    curve: Curve, taken: Mapping[str, tuple[str, str]], runs: "Sequence[Recorded]" = ()
) -> list[Item]:
    """The demands one by one.

    Args:
        curve: the study's points on test data, one series per method and seed.
        taken: for each method the label and score chosen, see `statistics.chosen`.
        runs: what the runs recorded; without, what only they know counts as lacking.
    """
    names = list(dict.fromkeys(Label.parse(label).method for label in taken))
    folder = runs[0].folder.parents[1] if runs else Path("study")
    again = f"ewnprune compare --config {quote(str(folder / 'study.yaml'))} --folder "
    every = {point.seed for point in curve if point.seed is not None}
    seeds = ",".join(map(str, sorted(every))) or "0-2"
    same, other = again + quote(str(folder)), again + quote(f"{folder}-2")
    items = [
        _pairs(runs, f"{other} --vary '{{data: [MNISTDataModule, my.Data, my.Other]}}'"),
        _counted(curve, other),
        _dense(curve, f"{other} --fit.prune.sparsities '[0, 0.5, 0.8, 0.9, 0.95, 0.98]'"),
        _levels(curve, f"{other} --fit.prune.sparsities '[0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99]'"),
        _seeds_item(curve, f"{same} --seeds 0-4"),
        _same_for_all(curve, runs, f"{same} --seeds {seeds}", other),
        _baselines(curve, names, f"{same} --seeds {seeds} --methods "),
        _finetuned(runs, other + " --fit.prune.finetune '{epochs: 2, sparsity: 0.9}'"),
        _untouched(curve, f"{other} --fit.data my.DataWithTestAndValidation"),
        _timed(curve, names, f"{other} --fit.prune.realize remove"),
    ]
    return [replace(item, mend="") if item.met else item for item in items]


def _pairs(runs: "Sequence[Recorded]", mend: str) -> Item:
    demand = "three pairs of data set and architecture or more"
    # sizes do not make another architecture, nor seeds other data
    pairs = {(_data(run), _classes(run.fit.get("model"))) for run in runs}
    if not runs:
        return Item(demand, False, "not known: the folders of the runs are not there", mend)
    if len(pairs) < 2:
        note = "one pair: it shows nothing of other tasks"
        return Item(demand, False, note, mend)
    return Item(demand, len(pairs) >= 3, f"{len(pairs)} pairs", mend)


def _counted(curve: Curve, mend: str) -> Item:
    counted = all(p.parameters is not None and p.macs is not None for p in curve)
    note = "parameters and MACs are counted beside neurons" if counted else "not counted"
    return Item("compression ratio and theoretical speedup", counted, note, mend)


def _dense(curve: Curve, mend: str) -> Item:
    dense = any(p.sparsity == 0 and p.accuracy is not None for p in curve)
    note = "top-1; top-5 is not measured" if dense else "level 0 is missing"
    return Item("absolute accuracy, and that of the unpruned network", dense, note, mend)


def _levels(curve: Curve, mend: str) -> Item:
    levels = sorted({point.sparsity for point in curve})
    dense = [p.accuracy for p in curve if p.sparsity == 0 and p.accuracy is not None]
    lowest = [p.accuracy for p in curve if p.accuracy is not None]
    collapse = bool(dense) and min(lowest) < 0.9 * max(dense)
    note = f"{len(levels)} levels up to {100 * max(levels, default=0):g} %"
    note += "" if collapse else ", none of which loses a tenth of the accuracy"
    demand = "five levels or more, up to where accuracy collapses"
    return Item(demand, len(levels) >= 5 and collapse, note, mend)


def _seeds_item(curve: Curve, mend: str) -> Item:
    fewest = min((len(found) for found in seeds_of(curve).values()), default=0)
    note = f"{fewest} seed{'' if fewest == 1 else 's'} at the least; standard deviations divide by "
    demand = "mean and sample standard deviation over several seeds"
    return Item(demand, fewest >= 3, note + "n - 1", mend)


def _same_for_all(
    curve: Curve,
    runs: "Sequence[Recorded]",
    same: str,
    other: str,
) -> Item:
    demand = "same code, data, initial network and budget for every method"
    finished = [run for run in runs if run.versions]
    if not finished:
        return Item(demand, False, "not known: the folders of the runs are not there", other)
    seeds = seeds_of(curve)
    every: set[Any] = set().union(*seeds.values())
    if any(found != every for found in seeds.values()):
        note = "not every method has every seed, and those of one seed share an initial network"
        return Item(demand, False, note, same)
    kinds: dict[str, set[Any]] = {
        "versions": {tuple(sorted(_software(run).items())) for run in finished},
        "machines": {
            (run.versions.get("processor"), run.versions.get("device")) for run in finished
        },
        "data": {(Label.parse(run.method).settings, _data(run)) for run in finished},
        "epochs": {(Label.parse(run.method).settings, run.epochs) for run in finished},
    }
    most = {"versions": 1, "machines": 1}
    settings = len({Label.parse(run.method).settings for run in finished})
    differing = [kind for kind, found in kinds.items() if len(found) > most.get(kind, settings)]
    if differing:
        return Item(demand, False, f"runs differ in their {' and '.join(differing)}", other)
    note = f"{len(finished)} runs agree; those of one seed share initial network and data"
    return Item(demand, True, note)


def _baselines(curve: Curve, names: Sequence[str], mend: str) -> Item:
    demand, able = "random and magnitude baselines", ["random", "random_ratios", "magnitude"]
    missing = [name for name in able if name not in names]
    note = "all there" if not missing else "missing: " + ", ".join(missing)
    if any(point.realize != "mask" or point.unit == "inputs" for point in curve):
        able.remove("magnitude")
        note += "; single weights, as of magnitude, can be masked only"
    mended = mend + ",".join(able) if {*missing} & {*able} else ""
    return Item(demand, not missing, note, mended)


def _finetuned(runs: "Sequence[Recorded]", mend: str) -> Item:
    trained = [run.fit.get("prune") or {} for run in runs if run.part is None]
    tuned = [bool(options.get("finetune") or options.get("gradual")) for options in trained]
    note = f"{sum(tuned)} of {len(tuned)} runs train on after pruning, or while they prune"
    if not any(tuned):
        note = "one-shot pruning only: rankings after fine-tuning may differ"
    return Item("fine-tuning after pruning", bool(tuned) and all(tuned), note, mend)


def _untouched(curve: Curve, mend: str) -> Item:
    splits = {point.split for point in curve}
    met = splits == {"test"}
    note = "scores and strengths are chosen on validation data"
    if not met:
        note = f"these points are of {', '.join(sorted(splits))} data"
    return Item("nothing chosen on test data", met, note, mend)


def _timed(curve: Curve, names: Sequence[str], mend: str) -> Item:
    weights = {Label.parse(p.method).method for p in curve if p.unit == "weights"}
    smaller = [point for point in curve if point.unit != "weights"]
    timed = [point for point in smaller if "latency_ms" in point.metrics]
    met = bool(timed) and len(timed) == len(smaller)
    note = (
        f"of {len(timed)} of {len(smaller)} points"
        if timed
        else "not measured: MACs are theoretical"
    )
    kept = ",".join(name for name in names if name not in weights)
    return Item("measured latency", met, note, f"{mend} --methods {kept}" if weights else mend)


def _data(run: "Recorded") -> str:
    return str([line for line in _lines(run.fit.get("data")) if line[0] != "init_args.seed"])


def _classes(options: Any) -> str:
    return str([line for line in _lines(options) if line[0].endswith("class_path")])


def _lines(options: Any, name: str = "") -> list[tuple[str, str]]:
    """Options by their dotted names; a class may be given by its path alone."""
    if isinstance(options, Mapping):
        return [line for key in options for line in _lines(options[key], f"{name}.{key}")]
    return [(name.lstrip(".") or "class_path", str(options))]


def _software(run: "Recorded") -> dict[str, str]:
    own = ("seconds", "finished", "device", "threads", "processor", "cores", "platform")
    return {name: value for name, value in run.versions.items() if name not in own}
