"""`ewnprune export`: the smaller network of a run, as a file that needs no ewnprune to be read."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ewnprune.callback.names import score_name
from ewnprune.curve.sweep import sparsity_curve
from ewnprune.errors import UsageError
from ewnprune.export.card import make_card, summary
from ewnprune.export.formats import Format, FormatName, Network, find_format
from ewnprune.export.trained import Batches, Trained, read_trained
from ewnprune.model.tensors import close, identical, same
from ewnprune.pruning.ranking import check_sparsities
from ewnprune.pruning.removal import remove_neurons


def export(
    run: str,
    sparsity: float | None = None,
    max_drop: float | None = None,
    format: FormatName = "state_dict",
    score: str | None = None,
    output: str | None = None,
    run_config: str | None = None,
) -> None:
    """Write the smaller network of a run, without the neurons pruned, and a card that tells of it.

    The network is plain: folded, and physically smaller. Its file is read back and compared with
    the network in memory on the run's data before anything is said to be done. Beside it lies
    card.json: where it comes from, accuracy before and after, sizes, latency, versions, checksum.

    Args:
        run: the folder of a run of ``ewnprune fit``, such as ``runs/version_0``, or a checkpoint.
        sparsity: fraction of the neurons to remove, in [0, 1).
        max_drop: instead of a sparsity: the largest of the run's levels that loses at most so
            many points (of a hundred) of accuracy on validation data.
        format: state_dict and safetensors hold the weights, torch_export and onnx the network.
        score: which neurons go first; by default the best on validation data of the run's scores.
        output: folder to make; by default one in the run's folder, or beside the checkpoint.
        run_config: config file to build model and data from, where it is not the run's own. It
            names the classes to build, as in ``ewnprune fit``: give one that you trust.

    Raises:
        ValueError: options that do not fit, a network that cannot be made smaller or written.
        FileNotFoundError: the run, the config or the checkpoint is not there.
        FileExistsError: the output is there already.
    """
    if (sparsity is None) == (max_drop is None):
        raise UsageError("expected either --sparsity, such as 0.9, or --max_drop, in points (0.5)")
    if max_drop is not None and not max_drop >= 0:
        raise UsageError(f"--max_drop {max_drop}: expected points of a hundred, 0 or more")
    levels = None if sparsity is None else check_sparsities([sparsity])
    kind = find_format(format)
    if output is not None:
        _refuse_existing(Path(output))
    trained = read_trained(run, run_config)
    trained.data.prepare_data()
    splits = {split: trained.batches(split) for split in ("val", "test")}
    inputs = _example(trained, splits)
    score, level, choice = _choose(trained, splits["val"], levels, max_drop, score_name(score))
    beside = Path(run) if Path(run).is_dir() else Path(run).parent
    folder = Path(output or beside / f"export-{format}-{level:g}")
    _refuse_existing(folder)
    small = remove_neurons(
        trained.model,
        level,
        inputs,
        score=score,
        layers=trained.pruning.layers,
        exclude=trained.pruning.exclude,
        scope=trained.pruning.scope,
        initial_norms=trained.initial_norms,
        seed=trained.seed,
    )
    part = _network_of(trained.model, inputs)
    dense, network = trained.model.get_submodule(part), small.get_submodule(part)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _new_folder(folder) as scratch:
        dense_bytes = _size_of(kind, dense, inputs, scratch)
        path = scratch / kind.file
        _write(format, kind, network, inputs, path)
        loaded = kind.read(path, network)
        checks = {
            split: _check(trained, batches, dense, network, loaded)
            for split, batches in splits.items()
            if batches is not None
        }
        card = make_card(trained, part, dense, network, loaded, inputs, path, kind)
        card["pruning"] |= {"score": score, "sparsity": level, "chosen": choice}
        card["accuracy"] = {split: check for split, check in checks.items()}
        card["bytes"] = {"before": dense_bytes, "after": path.stat().st_size}
        text = json.dumps(card, indent=2, allow_nan=False) + "\n"
        (scratch / "card.json").write_text(text, encoding="utf-8")
    print(summary(card))
    print("written:", f"  {folder / kind.file}", f"  {folder / 'card.json'}", sep="\n")


def _refuse_existing(folder: Path) -> None:
    if folder.exists():
        raise FileExistsError(f"{folder} is there already: give another --output, or remove it")


def _example(trained: Trained, splits: dict[str, Batches | None]) -> Tensor:
    for batches in splits.values():
        for batch in batches or ():
            inputs, _ = trained.pruning.batch(batch)
            if not isinstance(inputs, Tensor):
                raise ValueError(
                    f"the model's inputs are a {type(inputs).__name__}: expected one tensor, "
                    "(batch, ...), which is all that can be exported"
                )
            return inputs
    raise ValueError(
        f"{type(trained.data).__name__} gives neither validation nor test data: expected some, to "
        "check the exported network on"
    )


def _choose(
    trained: Trained,
    val: Batches | None,
    levels: tuple[float, ...] | None,
    max_drop: float | None,
    score: str | None,
) -> tuple[str, float, str]:
    """Score and level, and how they were chosen: on validation data, if there was a choice."""
    scores = list(trained.pruning.scores) if score is None else [score]
    if levels is not None and (len(scores) == 1 or val is None):
        return scores[0], levels[0], "as asked for"
    if val is None:
        raise ValueError(
            "--max_drop needs validation data to choose with, and the run's data have none: give "
            "a --sparsity"
        )
    curve = sparsity_curve(
        trained.model,
        val,
        sorted({0.0, *(trained.pruning.sparsities if levels is None else levels)}),
        scores,
        batch=trained.pruning.batch,
        layers=trained.pruning.layers,
        exclude=trained.pruning.exclude,
        scope=trained.pruning.scope,
        initial_norms=trained.initial_norms,
        seed=trained.seed,
    ).where(unit="neurons")
    found = []
    for name in scores:
        series = curve.where(score=name)
        if not len(series):
            continue
        level = series.largest_sparsity(max_drop) if levels is None else levels[0]  # type: ignore[arg-type]
        (point,) = series.where(sparsity=level)
        # the larger level first, then the better accuracy; of equals the score named first
        found.append((level, point.measure(), -scores.index(name)))
    if not found:
        raise ValueError(
            f"scores {scores} rank single weights: give a --score that ranks neurons, such as norm"
        )
    level, _, place = max(found)
    what = "score" if max_drop is None else f"score and level, within {max_drop:g} points"
    return scores[-place], level, f"{what}, on validation data"


def _network_of(model: nn.Module, inputs: Tensor) -> str:
    """Name of the module inside a LightningModule that computes all; empty if it is the whole."""
    children = [
        name for name, child in model.named_children() if any(True for _ in child.parameters())
    ]
    if len(children) != 1:
        return ""
    try:
        with torch.no_grad():
            outputs = model.get_submodule(children[0])(inputs)
            alone = same(outputs, model(inputs), identical)
    except (TypeError, ValueError, RuntimeError):  # it takes other inputs than the whole
        return ""
    return children[0] if alone else ""


def _check(
    trained: Trained, batches: Batches, dense: nn.Module, network: nn.Module, loaded: Network
) -> dict[str, Any]:
    """Compare the file with the network on all batches; count what each classifies right."""
    correct, total, largest, classes = {"before": 0, "after": 0}, 0, 0.0, True
    with torch.no_grad():
        for batch in batches:
            inputs, targets = trained.pruning.batch(batch)
            expected, outputs = network(inputs), loaded(inputs)
            if not same(outputs, expected, close):
                raise ValueError(
                    "the network read back from its file gives other outputs than the one "
                    "written: this format cannot hold it; try another --format"
                )
            classes = classes and _are_classes(outputs, targets)
            if classes:
                correct["before"] += int((dense(inputs).argmax(1) == targets).sum())
                correct["after"] += int((outputs.argmax(1) == targets).sum())
            total += len(inputs)
            if isinstance(outputs, Tensor):
                largest = max(largest, float((outputs - expected).abs().max()))
    rates = {key: value / total if classes else None for key, value in correct.items()}
    return {**rates, "samples": total, "largest_difference_of_file": largest}


def _are_classes(outputs: Any, targets: Any) -> bool:
    return (
        isinstance(outputs, Tensor)
        and isinstance(targets, Tensor)
        and not targets.is_floating_point()
        and outputs.ndim == 2
        and targets.ndim == 1
    )


def _write(name: str, kind: Format, network: nn.Module, inputs: Tensor, path: Path) -> None:
    try:
        kind.write(network, inputs, path)
    except OSError:
        raise
    except Exception as error:  # tracing runs the user's code, which may raise anything
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"the network cannot be written as {name} ({type(error).__name__}: {reason}): try "
            "another --format"
        ) from error


def _size_of(kind: Format, network: nn.Module, inputs: Tensor, scratch: Path) -> int:
    path = scratch / f"dense-{kind.file}"
    _write(path.name, kind, network, inputs, path)
    size = path.stat().st_size
    path.unlink()
    return size


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A folder to write in, which gets its name when all is written, and else goes."""
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        yield scratch
        os.chmod(scratch, folder.parent.stat().st_mode)  # mkdtemp gives a folder for its owner
        for path in scratch.iterdir():
            with path.open("rb") as written:
                os.fsync(written.fileno())
        os.rename(scratch, folder)
    except BaseException:
        shutil.rmtree(scratch)
        raise
