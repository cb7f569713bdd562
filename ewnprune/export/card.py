"""The card of an exported network: what it is, where it comes from and what it costs."""

import hashlib
import platform
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ewnprune.columns import align
from ewnprune.export.budget import budget_told
from ewnprune.export.calling import Calling, described
from ewnprune.export.formats import Format, Network
from ewnprune.export.trained import Trained
from ewnprune.model.latency import measure_latency
from ewnprune.model.layers import num_neurons, select_layers, type_name
from ewnprune.model.size import count_macs, count_parameters
from ewnprune.model.tensors import first_samples
from ewnprune.pruning.removed import Removal

_BATCH_SIZES = (1, 128)
_SECONDS = 0.5  # to time each network in, at each batch size


def make_card(
    trained: Trained,
    part: str,
    dense: Calling,
    network: Calling,
    removed: Removal,
    loaded: Network,
    path: Path,
    kind: Format,
) -> dict[str, Any]:
    """All that a card says but what was chosen how, and the accuracy.

    Args:
        trained: the run.
        part: name of the network inside the run's model; empty for the whole.
        dense: the network before.
        network: the network after.
        removed: what was removed of the run's model.
        loaded: the same, as read back from its file.
        path: the file.
        kind: its format.
    """
    from ewnprune import __version__

    pruning = trained.pruning
    selection = select_layers(trained.model, pruning.layers, pruning.exclude, recurrent=True)
    prefix = f"{part}." if part else ""
    names = [name.removeprefix(prefix) for name in selection.chosen]
    before, after = dict(dense.network.named_modules()), dict(network.network.named_modules())
    one, forward = first_samples(network.inputs), network.forward
    with torch.no_grad():
        macs = [count_macs(net.network, forward, one)[0] for net in (dense, network)]
    return {
        "format": 1,
        "file": kind.file,
        "sha256": _sha256(path),
        "source": {
            "config": str(trained.config),
            "checkpoint": str(trained.checkpoint),
            "checkpoint_sha256": _sha256(trained.checkpoint),
            "epoch": trained.epoch,
            "step": trained.step,
            "seed": trained.seed,
            "method": pruning.method,
            "module": part,
            "network": type_name(network.network),
        },
        "pruning": {
            "unit": "neurons" if removed.inputs is None else "inputs",
            "scope": pruning.scope,
            "max_per_layer": pruning.max_per_layer,
            "neurons": {
                name: {"before": num_neurons(before[name]), "after": num_neurons(after[name])}
                for name in names
            },
            "groups": {
                name.removeprefix(prefix): {"left": left, "total": total}
                for name, (left, total) in removed.left.items()
            },
            "notes": [{"kind": note.kind, "text": note.text} for note in removed.notes],
            "layers_left": {n.removeprefix(prefix): why for n, why in selection.left.items()},
        },
        "parameters": {
            "before": count_parameters(dense.network),
            "after": count_parameters(network.network),
        },
        "macs": {"before": macs[0], "after": macs[1]},
        "latency": _latencies(dense, network, loaded),
        "call": f"network({network.as_typed()})",
        "inputs": described(network.inputs),
        "outputs": described(network.outputs(one)),
        "tensors": {key: list(value.shape) for key, value in network.network.state_dict().items()},
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "ewnprune": __version__,
            **{package: version(package) for package in kind.packages},
        },
    }


def summary(card: dict[str, Any]) -> str:
    """The card's figures as text.

    >>> card = {name: {"before": 4000, "after": 1000} for name in ("parameters", "macs", "bytes")}
    >>> card |= {"accuracy": {"test": {"before": 0.98, "after": 0.9765}}, "latency": []}
    >>> pruning = {"sparsity": 0.8, "score": "norm", "notes": []}
    >>> print(summary(card | {"pruning": pruning}))
    80 % of the neurons removed, by norm
                     before    after
    parameters        4,000    1,000
    MACs              4,000    1,000
    bytes             4,000    1,000
    accuracy, test  98.00 %  97.65 %
    """
    rows = [
        ("parameters", card["parameters"], "{:,}"),
        ("MACs", card["macs"], "{:,}"),
        ("bytes", card["bytes"], "{:,}"),
        *((f"accuracy, {split}", row, "{:.2%}") for split, row in card["accuracy"].items()),
        *(
            (f"ms, batch {row['batch_size']}, {row['device']}", row, "{:.3f}")
            for row in card["latency"]
        ),
    ]
    pruning = card["pruning"]
    columns = [["", *(title for title, *_ in rows)]]
    for when in ("before", "after"):
        cells = ("-" if row[when] is None else shape.format(row[when]) for _, row, shape in rows)
        columns.append([when, *(cell.replace("%", " %") for cell in cells)])
    unit = pruning.get("unit", "neurons")
    head = f"{100 * pruning['sparsity']:g} % of the {unit} removed, by {pruning['score']}"
    lines = [head, *([budget_told(pruning["budget"])] if "budget" in pruning else [])]
    lines += [align(columns, left=1)]
    # what a user would not expect; the rest is in the card
    lines += [note["text"] for note in pruning["notes"] if note["kind"] in ("stays", "score")]
    return "\n".join(lines)


def _latencies(dense: Calling, network: Calling, loaded: Network) -> list[dict[str, Any]]:
    """Medians in milliseconds: both networks in torch, and the file by what reads it."""
    networks: dict[str, Network] = {
        "before": partial(dense.forward, dense.network),
        "after": partial(network.forward, network.network),
        "file": loaded,
    }
    batches = [network.inputs]  # as it is, where nobody knows what a sample is
    if network.batched:
        batches = [network.example(size) for size in _BATCH_SIZES]
    rows = []
    for batch in batches:
        measured = measure_latency(networks, batch, seconds=_SECONDS)
        first = measured["before"]
        where = {"batch_size": first.batch_size, "device": first.device, "threads": first.threads}
        times = {name: latency.milliseconds for name, latency in measured.items()}
        rows.append({**where, "unit": "ms, median", **times})
    return rows


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
