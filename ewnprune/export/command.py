"""`ewnprune export`: the smaller network of a run, as a file that needs no ewnprune to be read."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ewnprune.callback.names import score_name
from ewnprune.errors import UsageError
from ewnprune.export.calling import Calling
from ewnprune.export.card import make_card, summary
from ewnprune.export.choosing import accuracies, check_drop, choose
from ewnprune.export.formats import Format, FormatName, Network, find_format
from ewnprune.export.readme import write_up
from ewnprune.export.trained import Batches, Trained, read_trained
from ewnprune.model.tensors import close, identical, same, tensors_in
from ewnprune.pruning.choice import Choice
from ewnprune.pruning.heads import Heads
from ewnprune.pruning.ranking import check_sparsities
from ewnprune.pruning.removal import remove_with_notes
from ewnprune.pruning.score_names import find_scores
from ewnprune.pruning.smaller import largest_difference


def export(
    run: str,
    sparsity: float | None = None,
    max_drop: float | None = None,
    format: FormatName = "state_dict",
    score: str | None = None,
    round_to: int = 1,
    heads: Heads = "keep",
    output: str | None = None,
    run_config: str | None = None,
) -> None:
    """Write the smaller network of a run, without the neurons pruned, and a card that tells of it.

    The network is plain: folded, and physically smaller. It is built with the layers, the scope,
    the batch and the forward function that the run was pruned with. Its file is read back and
    compared with the network in memory on the run's data before anything is said to be done. Beside
    it lie card.json: where it comes from, what was removed, accuracy before and after, sizes,
    latency, versions, checksum; and README.md, the same for people, as model hubs show it.

    Args:
        run: the folder of a run of ``ewnprune fit``, such as ``runs/version_0``, or a checkpoint.
        sparsity: fraction of the neurons to remove, in [0, 1).
        max_drop: instead of a sparsity: the largest of the run's levels that loses at most so
            many points (of a hundred) of accuracy on validation data. The network built is held
            against it once more before it is written.
        format: state_dict and safetensors hold the weights, torch_export and onnx the network.
        score: which neurons go first; by default the best on validation data of the run's scores.
        round_to: the number of neurons that stay is rounded up to a multiple of this.
        heads: what goes of attention made of Linear layers: whole heads, the same number of dims of
            each, or nothing, keep.
        output: folder to make; by default one in the run's folder, or beside the checkpoint.
        run_config: config file to build model and data from, where it is not the run's own. It
            names the classes to build, as in ``ewnprune fit``: give one that you trust.

    Raises:
        UsageError: options that do not fit.
        ValueError: a network that cannot be made smaller or written, or that loses more than
            `max_drop`.
        FileNotFoundError: the run, the config or the checkpoint is not there.
        FileExistsError: the output is there already.
    """
    if (sparsity is None) == (max_drop is None):
        raise UsageError("expected either --sparsity, such as 0.9, or --max_drop, in points (0.5)")
    if max_drop is not None and not max_drop >= 0:
        raise UsageError(f"--max_drop {max_drop}: expected points of a hundred, 0 or more")
    score = score_name(score)
    levels = _check_options(sparsity, score, round_to, heads)
    kind = find_format(format)
    if output is not None:
        _refuse_existing(Path(output))
    trained = read_trained(run, run_config)
    trained.data.prepare_data()
    splits = {split: trained.batches(split) for split in ("val", "test")}
    inputs = _example(trained, splits)
    removal: dict[str, Any] = {
        "layers": trained.pruning.layers,
        "exclude": trained.pruning.exclude,
        "scope": trained.pruning.scope,
        "round_to": round_to,
        "heads": heads,
        "initial_norms": trained.initial_norms,
        "seed": trained.seed,
        "forward": trained.pruning.measuring.forward,
    }
    score, level, choice = choose(trained, splits["val"], levels, max_drop, score, removal)
    beside = Path(run) if Path(run).is_dir() else Path(run).parent
    folder = Path(output or beside / f"export-{format}-{level:g}")
    _refuse_existing(folder)
    removed = remove_with_notes(trained.model, level, inputs, score=score, **removal)
    networks = {"before": trained.model, "after": removed.model}
    measured = {
        split: accuracies(trained, networks, batches, removal)
        for split, batches in splits.items()
        if batches is not None
    }
    if max_drop is not None:
        check_drop(measured["val"], max_drop)
    whole = Calling(trained.model, inputs, removal["forward"])
    part = _network_of(whole)
    dense = replace(whole, network=trained.model.get_submodule(part))
    network = replace(whole, network=removed.model.get_submodule(part))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _new_folder(folder) as scratch:
        dense_bytes = _size_of(format, kind, dense, scratch)
        path = scratch / kind.file
        _write(format, kind, network, path)
        loaded = kind.read(path, network)
        checks = {
            split: _check_file(trained, batches, network, loaded)
            for split, batches in splits.items()
            if batches is not None
        }
        card = make_card(trained, part, dense, network, removed, loaded, path, kind)
        card["pruning"] |= {"score": score, "sparsity": level, "chosen": choice}
        card["pruning"] |= {"round_to": round_to, "heads": heads}
        card["accuracy"] = {split: {**measured[split], **checks[split]} for split in checks}
        card["bytes"] = {"before": dense_bytes, "after": path.stat().st_size}
        text = json.dumps(card, indent=2, allow_nan=False) + "\n"
        (scratch / "card.json").write_text(text, encoding="utf-8")
        (scratch / "README.md").write_text(write_up(card, format), encoding="utf-8")
    print(summary(card))
    written = (kind.file, "card.json", "README.md")
    print("written:", *(f"  {folder / name}" for name in written), sep="\n")


def _check_options(
    sparsity: float | None, score: str | None, round_to: int, heads: Heads
) -> tuple[float, ...] | None:
    """The level asked for, if any.

    Raises:
        UsageError: an option has a value that it cannot have.
    """
    try:
        Choice(round_to=round_to, heads=heads)
        if score is not None:
            find_scores(score)
        return None if sparsity is None else check_sparsities([sparsity])
    except ValueError as error:
        raise UsageError(str(error)) from error


def _refuse_existing(folder: Path) -> None:
    if folder.exists():
        raise FileExistsError(f"{folder} is there already: give another --output, or remove it")


def _example(trained: Trained, splits: dict[str, Batches | None]) -> Any:
    for batches in splits.values():
        for batch in batches or ():
            inputs, _ = trained.pruning.batch(batch)
            return inputs
    raise ValueError(
        f"{type(trained.data).__name__} gives neither validation nor test data: expected some, to "
        "check the exported network on"
    )


def _network_of(whole: Calling) -> str:
    """Name of the module inside a LightningModule that computes all; empty if it is the whole."""
    model = whole.network
    children = [
        name for name, child in model.named_children() if any(True for _ in child.parameters())
    ]
    if len(children) != 1:
        return ""
    child = replace(whole, network=model.get_submodule(children[0]))
    try:
        outputs = child.outputs(whole.inputs)
    except (TypeError, ValueError, RuntimeError, LookupError, AttributeError):
        return ""  # it takes other inputs than the whole
    return children[0] if same(outputs, whole.outputs(whole.inputs), identical) else ""


def _check_file(
    trained: Trained, batches: Batches, calling: Calling, loaded: Network
) -> dict[str, Any]:
    """Compare the file with the network on all batches."""
    total, largest = 0, 0.0
    for batch in batches:
        inputs, _ = trained.pruning.batch(batch)
        expected = calling.outputs(inputs)
        try:
            with torch.no_grad():
                outputs = loaded(inputs)
        except Exception as error:  # of whatever runs the file
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                "the network read back from its file does not take a batch that the network itself "
                f"takes ({type(error).__name__}: {reason}): only the number of samples may vary in "
                "it; try another --format"
            ) from error
        if not same(outputs, expected, close):
            raise ValueError(
                "the network read back from its file gives other outputs than the one "
                "written: this format cannot hold it; try another --format"
            )
        total += len(tensors_in(inputs)[0])
        largest = max(largest, largest_difference(outputs, expected))
    return {"samples": total, "largest_difference_of_file": largest}


def _write(name: str, kind: Format, calling: Calling, path: Path) -> None:
    try:
        kind.write(calling, path)
    except OSError:
        raise
    except Exception as error:  # tracing runs the user's code, which may raise anything
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"the network cannot be written as {name} ({type(error).__name__}: {reason}): try "
            "another --format"
        ) from error


def _size_of(name: str, kind: Format, calling: Calling, scratch: Path) -> int:
    path = scratch / f"dense-{kind.file}"
    _write(name, kind, calling, path)
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
