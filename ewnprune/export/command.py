"""`ewnprune export`: the smaller network of a run, as a file that needs no ewnprune to be read."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ewnprune.callback.names import score_name
from ewnprune.errors import UsageError
from ewnprune.export.batches import Batches
from ewnprune.export.budget import budget_entry, cost_as_written, levels_within
from ewnprune.export.calling import Calling
from ewnprune.export.card import make_card, summary
from ewnprune.export.choosing import accuracies, check_drop, choose, from_data
from ewnprune.export.features import draw_features, features_entry
from ewnprune.export.formats import FormatName, find_format
from ewnprune.export.readme import write_up
from ewnprune.export.trained import Trained, read_trained
from ewnprune.export.writing import check_file, new_folder, size_of, write_network
from ewnprune.files import local_path
from ewnprune.model.preserve import as_made
from ewnprune.model.tensors import identical, same
from ewnprune.pruning.budget import Budget, Met
from ewnprune.pruning.choice import Choice
from ewnprune.pruning.heads import Heads
from ewnprune.pruning.ranking import check_sparsities
from ewnprune.pruning.removal import remove_with_notes
from ewnprune.pruning.score_names import find_scores


def export(
    run: str,
    sparsity: float | None = None,
    max_drop: float | None = None,
    macs: float | None = None,
    parameters: float | None = None,
    bytes: float | None = None,
    latency_ms: float | None = None,
    format: FormatName = "state_dict",
    score: str | None = None,
    round_to: int = 1,
    heads: Heads = "keep",
    inputs: bool = False,
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
        macs: or a budget: the largest network with at most so many multiply-accumulates for one
            sample; up to 1 a fraction of the dense network's. What is reached stands in the card.
        parameters: the same for parameters.
        bytes: the same for the size of the file in this format.
        latency_ms: the same for the milliseconds that one sample takes in torch on this machine,
            as measured: times scatter, so two exports may differ.
        format: state_dict and safetensors hold the weights, torch_export and onnx the network.
        score: which neurons go first; by default the best on validation data of the run's scores.
        round_to: the number of neurons that stay is rounded up to a multiple of this.
        heads: what goes of attention made of Linear layers: whole heads, the same number of dims of
            each, or nothing, keep.
        inputs: true removes inputs (pixels, columns of a table) in place of neurons, and the
            sparsity is a fraction of those. The network takes whole inputs and picks; which it
            reads the card lists, and of images features.png shows.
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
    costs = {"macs": macs, "parameters": parameters, "bytes": bytes, "latency_ms": latency_ms}
    given = {name: value for name, value in costs.items() if value is not None}
    if len(given) + (sparsity is not None) + (max_drop is not None) != 1:
        raise UsageError(
            "expected either --sparsity, such as 0.9, or --max_drop, in points (0.5), or one of "
            "--macs, --parameters, --bytes and --latency_ms, such as --macs 0.5"
        )
    if max_drop is not None and not max_drop >= 0:
        raise UsageError(f"--max_drop {max_drop}: expected points of a hundred, 0 or more")
    score = score_name(score)
    budget = _check_options(sparsity, given, score, round_to, heads, inputs)
    kind = find_format(format)
    if output is not None:
        output = str(local_path(output))
        _refuse_existing(Path(output))
    trained = read_trained(run, run_config)
    trained.data.prepare_data()
    splits = {split: trained.batches(split) for split in ("val", "test")}
    example = _example(trained, splits)
    scores = list(trained.pruning.scores) if score is None else [score]
    removal: dict[str, Any] = {
        "layers": trained.pruning.layers,
        "exclude": trained.pruning.exclude,
        "scope": trained.pruning.scope,
        "max_per_layer": trained.pruning.max_per_layer,
        "round_to": round_to,
        "heads": heads,
        "inputs": inputs,
        "initial_norms": trained.initial_norms,
        "seed": trained.seed,
        "recalibrate": trained.training_batches(always=inputs),
        "batch": trained.pruning.batch,
        "forward": trained.pruning.measuring.forward,
    }
    removal |= from_data(trained, splits["val"], scores, removal)
    whole = Calling(trained.model, example, removal["forward"])
    part = _network_of(whole)
    levels = None if sparsity is None else dict.fromkeys(scores, float(sparsity))
    mets: dict[str, Met] = {}
    if budget is not None:
        cost = cost_as_written(budget.cost, format, kind, whole, part)
        mets = levels_within(trained, budget, scores, example, removal, cost)
        levels = {name: met.level for name, met in mets.items()}
    score, level, choice = choose(trained, splits["val"], scores, levels, max_drop, removal)
    beside = local_path(run)
    beside = beside if beside.is_dir() else beside.parent
    asked = f"{level:g}" if budget is None else f"{budget.cost}-{budget.value:g}"
    folder = Path(output or beside / f"export-{format}-{asked}")
    _refuse_existing(folder)
    removed = remove_with_notes(trained.model, level, example, score=score, **removal)
    networks = {"before": trained.model, "after": removed.model}
    measured = {
        split: accuracies(trained, networks, batches, removal)
        for split, batches in splits.items()
        if batches is not None
    }
    if max_drop is not None:
        check_drop(measured["val"], max_drop)
    dense = replace(whole, network=trained.model.get_submodule(part))
    network = replace(whole, network=removed.model.get_submodule(part))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with new_folder(folder) as scratch:
        dense_bytes = size_of(format, kind, dense)
        path = scratch / kind.file
        write_network(format, kind, network, path)
        loaded = kind.read(path, network)
        checks = {
            split: check_file(trained, batches, network, loaded)
            for split, batches in splits.items()
            if batches is not None
        }
        card = make_card(trained, part, dense, network, removed, loaded, path, kind)
        card["pruning"] |= {"score": score, "sparsity": level, "chosen": choice}
        card["pruning"] |= {"round_to": round_to, "heads": heads}
        card["accuracy"] = {split: {**measured[split], **checks[split]} for split in checks}
        card["bytes"] = {"before": dense_bytes, "after": path.stat().st_size}
        if removed.inputs is not None:
            card["features"] = features_entry(trained, removed, network.network)
            draw_features(removed.inputs, scratch / "features.png")
        if budget is not None:
            card["pruning"]["budget"] = budget_entry(budget, mets[score], card)
        text = json.dumps(card, indent=2, allow_nan=False) + "\n"
        (scratch / "card.json").write_text(text, encoding="utf-8")
        (scratch / "README.md").write_text(write_up(card, format), encoding="utf-8")
    print(summary(card))
    figure = ("features.png",) if (folder / "features.png").exists() else ()
    written = (kind.file, "card.json", "README.md", *figure)
    print("written:", *(f"  {folder / name}" for name in written), sep="\n")


def _check_options(
    sparsity: float | None,
    costs: Mapping[str, float],
    score: str | None,
    round_to: int,
    heads: Heads,
    inputs: bool,
) -> Budget | None:
    """The budget asked for, if any.

    Raises:
        UsageError: an option has a value that it cannot have.
    """
    try:
        Choice(round_to=round_to, heads=heads, inputs=inputs)
        if score is not None:
            find_scores(score)
        if sparsity is not None:
            check_sparsities([sparsity])
        return Budget(**costs) if costs else None
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
    child = model.get_submodule(children[0])
    try:
        outputs = replace(whole, network=child).outputs(whole.inputs)
    except Exception:  # of the user's code, which takes other inputs there and may say it anyhow
        return ""
    if not same(outputs, whole.outputs(whole.inputs), identical):
        return ""
    return children[0] if as_made(child) is child else f"{children[0]}._orig_mod"
