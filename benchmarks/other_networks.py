"""Networks that nobody here wrote: attached, trained, swept, cut in half and exported.

    pip install timm transformers && python -m benchmarks.other_networks

prints a Markdown table and writes it to ``docs/results/other_networks.csv``; ``--networks NAME``
does some only, and writes nothing. Each network runs in a process of its own, in one thread, with
drawn weights. The columns: layers under EWN after `reparametrize`; whether a step of training has
finite gradients and `fold` gives back what the forward pass had; groups of neurons that are cut,
and parameters and MACs left, in %, with half of the neurons of each removed; whether the curve's
point has the sizes of that network, and how far its outputs are from the masked one's, as a
fraction of the largest; its latency for one sample, in ms, before and after; whether a fresh
process that has torch alone reads its export and gives the same; and the parameters left by
Torch-Pruning used as its README says, at half of the channels, or how that ends. What is refused
is given in its own words.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from benchmarks.model_zoo import NAMES, make
from ewnprune import EWN, fold, reparametrize, sparsity_curve
from ewnprune.export.calling import Calling
from ewnprune.export.formats import find_format
from ewnprune.files import write_rows
from ewnprune.model.copying import copy_network
from ewnprune.model.latency import measure_latency
from ewnprune.model.preserve import evaluating
from ewnprune.model.size import count_macs, count_parameters
from ewnprune.model.tensors import first_samples
from ewnprune.model.tracing import Forward
from ewnprune.pruning.removal import remove_with_notes

FILE = Path(__file__).parent.parent / "docs" / "results" / "other_networks.csv"
LIMIT = 600  # seconds for one network
COLUMNS = (
    *("package", "network", "layers", "trains", "groups", "parameters left", "MACs left"),
    *("sweep = removal", "difference", "latency", "export", "torch-pruning", "seconds"),
)


_READER = """
import sys, torch
program = torch.export.load(sys.argv[1] + "/network.pt2").module()
args, kwargs = torch.load(sys.argv[1] + "/inputs.pt")
torch.save(program(*args, **kwargs), sys.argv[1] + "/outputs.pt")
"""


def outputs_of(network: nn.Module, inputs: Any, forward: Forward) -> Tensor:
    """All floats of what it gives, side by side."""
    leaves = tree_leaves(Calling(network, inputs, forward).outputs(inputs))
    found = [leaf.flatten() for leaf in leaves if torch.is_tensor(leaf)]
    return torch.cat([leaf for leaf in found if leaf.is_floating_point()])


def attached(network: nn.Module, inputs: Any, forward: Forward) -> dict[str, Any]:
    """One step under EWN, and back."""
    network = copy_network(network)
    report = reparametrize(network, EWN())
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4)
    network.train()
    outputs = [x for x in _floats(forward(network, inputs)) if x.requires_grad]
    torch.stack([x.square().mean() for x in outputs]).sum().backward()
    finite = all(bool(p.grad.isfinite().all()) for p in network.parameters() if p.grad is not None)
    optimizer.step()
    network.eval()
    before = outputs_of(network, inputs, forward)
    fold(network)
    after = outputs_of(network, inputs, forward)
    same = float((before - after).abs().max() / before.abs().max()) < 1e-5
    return {"layers": len(report.chosen), "trains": "yes" if finite and same else "NO"}


def _floats(result: Any) -> list[Tensor]:
    """The tensors of numbers in what a network gives, be it a class of its library's own."""
    leaves = tree_leaves([*result.values()] if isinstance(result, Mapping) else result)
    return [x for x in leaves if torch.is_tensor(x) and x.is_floating_point()]


def removed(network: nn.Module, inputs: Any, forward: Forward) -> dict[str, Any]:
    """Half of each group removed, beside the curve's point and in a file."""
    targets = torch.zeros(4, dtype=torch.long)

    def loss(outputs: Any, _: Tensor) -> Tensor:
        return torch.stack([x.square().mean() for x in _floats(outputs)]).sum()

    (point,) = sparsity_curve(network, [(inputs, targets)], (0.5,), loss_fn=loss, forward=forward)
    removal = remove_with_notes(network, 0.5, inputs, forward=forward)
    small = removal.model
    one = first_samples(inputs)
    with evaluating(network, small), torch.no_grad():
        dense_macs, _ = count_macs(network, forward, one)
        macs, _ = count_macs(small, forward, one)
        scale = float(outputs_of(network, inputs, forward).abs().max())
        networks = {"dense": network, "small": small}
        runs = {k: lambda x, n=n: forward(n, x) for k, n in networks.items()}
        times = measure_latency(runs, one, seconds=0.5)
    parameters = count_parameters(small)
    same = (point.parameters.left, point.macs.left) == (parameters, macs)
    return {
        "groups": len(removal.left),
        "parameters left": f"{100 * parameters / count_parameters(network):.0f}",
        "MACs left": f"{100 * macs / dense_macs:.0f}",
        "sweep = removal": "yes" if same else "NO",
        "difference": f"{removal.difference / scale:.0e}",
        "latency": " to ".join(f"{times[k].milliseconds:.1f}" for k in ("dense", "small")),
        "export": exported(Calling(small, inputs, forward)),
    }


def exported(calling: Calling) -> str:
    """Whether a fresh process reads the file and gives the same."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        find_format("torch_export").write(calling, folder / "network.pt2")
        torch.save(calling.arguments(calling.inputs), folder / "inputs.pt")
        done = subprocess.run(
            [sys.executable, "-c", _READER, name], capture_output=True, text=True, check=False
        )
        if done.returncode:
            return done.stderr.strip().splitlines()[-1][:80]
        found = tree_leaves(torch.load(folder / "outputs.pt"))
    expected = tree_leaves(calling.outputs(calling.inputs))
    pairs = [(a, b) for a, b in zip(found, expected, strict=True) if torch.is_tensor(a)]
    return "yes" if all(torch.allclose(a, b, 1e-4, 1e-4) for a, b in pairs) else "OTHER OUTPUTS"


def by_torch_pruning(network: nn.Module, inputs: Any, forward: Forward) -> dict[str, Any]:
    """Parameters left by that library alone, its last layer ignored."""
    import torch_pruning

    network = copy_network(network)
    before = count_parameters(network)
    last = [m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1]
    importance = torch_pruning.importance.GroupMagnitudeImportance(p=2)
    try:
        pruner = torch_pruning.pruner.BasePruner(
            network, inputs, importance, pruning_ratio=0.5, ignored_layers=[last]
        )
        pruner.step()
        outputs_of(network, inputs, forward)
    except Exception as error:  # whatever it raises is its result
        text = str(error).strip().splitlines() or [""]
        return {"torch-pruning": f"{type(error).__name__}: {text[0]}"[:80]}
    return {"torch-pruning": f"{100 * count_parameters(network) / before:.0f}"}


def one(name: str) -> dict[str, Any]:
    """The row of a network."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    network, inputs, forward = make(name)
    row: dict[str, Any] = {}
    parts: tuple[Callable[..., dict[str, Any]], ...] = (attached, removed, by_torch_pruning)
    for part in parts:
        start = time.monotonic()
        try:
            row |= part(network, inputs, forward)
        except ValueError as error:  # a refusal, in its own words
            row |= {"groups" if part is removed else "layers": f"refused: {error}"}
        if part is removed:
            row["seconds"] = f"{time.monotonic() - start:.0f}"
    return row


def in_a_process(name: str) -> dict[str, Any]:
    """The same in a process of its own; what it says last where it has no row."""
    package, _, kind = name.partition("/")
    row = dict.fromkeys(COLUMNS, "") | {"package": package, "network": kind}
    words = [sys.executable, "-m", "benchmarks.other_networks", "--one", name]
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, check=False, timeout=LIMIT, env=os.environ
        )
    except subprocess.TimeoutExpired:
        return row | {"groups": f"not within {LIMIT} s"}
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return row | {"groups": f"FAILED: {said[-1][:200]}"}
    return row | json.loads(lines[-1])


def main() -> None:
    """Print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--networks", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--one", choices=NAMES, help="print the row of one network as JSON")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(options.one)))
        return
    print(f"| {' | '.join(COLUMNS)} |\n| {' | '.join('---' for _ in COLUMNS)} |")
    table = []
    for name in options.networks:
        table.append(in_a_process(name))
        print(f"| {' | '.join(map(str, table[-1].values()))} |", flush=True)
    if options.networks == NAMES:
        write_rows(FILE, table, COLUMNS)


if __name__ == "__main__":
    main()
