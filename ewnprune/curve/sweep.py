"""`sparsity_curve`: accuracy at many levels of sparsity, in one pass over the data."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from ewnprune.curve.built import Realize, realize_name, removed_curve
from ewnprune.curve.curve import Curve
from ewnprune.curve.measures import Loss, Measures
from ewnprune.curve.memory import Pieces, with_enough_memory
from ewnprune.curve.plan import make_plan
from ewnprune.curve.points import CurvePoint
from ewnprune.curve.replay import Replay
from ewnprune.model.anatomy import Anatomy, dissect
from ewnprune.model.layers import LayerPatterns, Selection, select_layers
from ewnprune.model.preserve import evaluating
from ewnprune.model.tensors import device_of, to_device
from ewnprune.model.tracing import Forward, call
from ewnprune.pruning.maskings import masking
from ewnprune.pruning.neurons import Score, find_scores, rank_neurons
from ewnprune.pruning.ranking import SPARSITIES, Ranking, Scope, check_sparsities

Batch = Callable[[Any], tuple[Any, Any]]


def inputs_and_targets(batch: Any) -> tuple[Any, Any]:
    """The batch layout used where none is given: ``(inputs, targets)``.

    Raises:
        ValueError: the batch is something else.
    """
    if isinstance(batch, tuple | list) and len(batch) == 2:
        return batch[0], batch[1]
    length = f" of {len(batch)}" if isinstance(batch, tuple | list | dict) else ""
    raise ValueError(
        f"a batch of the loader is a {type(batch).__name__}{length}: expected (inputs, targets); "
        "for another layout give batch=, a function from a batch to the two"
    )


def sparsity_curve(
    model: nn.Module,
    loader: Iterable[Any],
    sparsities: Iterable[float] = SPARSITIES,
    scores: str | Score | Sequence[str | Score] = ("norm",),
    *,
    metric: Metric | MetricCollection | None = None,
    loss_fn: Loss | None = None,
    batch: Batch = inputs_and_targets,
    forward: Forward = call,
    layers: LayerPatterns | None = None,
    exclude: LayerPatterns | None = None,
    scope: Scope = "layer",
    initial_norms: Mapping[str, Tensor] | None = None,
    device: torch.device | str | None = None,
    method: str = "",
    seed: int | None = None,
    realize: Realize = "mask",
    example_input: Any = None,
    latency_batch_size: int = 1,
    latency_seconds: float = 0.5,
) -> Curve:
    r"""Prune at every level by every score, without touching the model, and measure each network.

    With masks all levels and scores are evaluated in one pass over the loader. A neuron goes with
    its bias and its outgoing weights; where the layers that read it are not known (a residual
    addition, a forward pass that torch.fx cannot trace), its own output is set to zero instead. The
    curve's notes say which was done, layer by layer, and which layers were left.

    With ``realize="remove"`` each network is built by `remove_neurons`, which raises where that
    cannot be done, and run over the loader by itself. Parameters and MACs are counted on it, and
    each point's metrics hold what masks cannot tell: ``"bytes"``, the size of its state dict on
    disk, and ``"latency_ms"``, the median time of a forward pass after warming up; the notes say
    at which batch size, on what device.

    The model is left bit for bit as it was: parameters, buffers, train flags, and the state of
    all random number generators. For a progress bar wrap the loader. With several processes each
    gives its own part of the data, all must call, and counts are summed over them. Where memory is
    short the data are gone over anew with batches cut into halves, quarters and so on, which a note
    of the curve says.

    Args:
        model: any module; it is evaluated in eval mode, where it lies.
        loader: gives the batches.
        sparsities: the levels, in [0, 1). ``round(level * units)`` go, but never a whole layer.
        scores: functions of `ewnprune.scores`, by name or import path, or any `Score`.
        metric: further measures: any torchmetrics metric or collection, computed per network.
        loss_fn: from outputs and targets to the mean loss of the batch, or one loss per sample;
            cross-entropy for classification.
        batch: from a batch of the loader to inputs and targets.
        forward: from model and inputs to outputs; ``model(inputs)`` by default.
        layers: which layers, see `select_layers`; by default every Linear and convolution but
            the last.
        exclude: which of them to leave.
        scope: ``"layer"`` removes the same fraction of each layer, ``"global"`` the lowest
            scores of all.
        initial_norms: norms at initialisation by layer name, for scores that need them.
        device: where to put the batches; the device of the model's first parameter by default.
        method: name of the training method, for the curve.
        seed: seed of the run, for the curve; scores that draw numbers take it as theirs.
        realize: ``"mask"``; ``"remove"``, for which reparametrized layers must be folded first; or
            a function like `remove_neurons`, such as `remove_and_repair`, by which the points are
            then named.
        example_input: batch of inputs that removal looks at, by default the loader's first. A
            repair learns from it: give one of training data.
        latency_batch_size: samples per forward pass, where the time is measured.
        latency_seconds: how long to measure each network.

    Returns:
        One point per score and level. Accuracy is top-1, of class scores ``(B, C, ...)`` and class
        indices ``(B, ...)``; a prediction with a NaN among its scores counts as wrong.

    Raises:
        ValueError: levels, scores, layers, metric, loss or batches that do not fit, a layer that
            cannot be pruned, or not removed, a loader without batches.

    >>> from torch.utils.data import DataLoader, TensorDataset
    >>> _ = torch.manual_seed(0)
    >>> net = nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 3))
    >>> data = TensorDataset(torch.randn(64, 4), torch.randint(3, (64,)))
    >>> curve = sparsity_curve(net, DataLoader(data, 16), (0, 0.5), ("norm", "random"))
    >>> [(point.score, point.sparsity, point.neurons) for point in curve][:2]
    [('norm', 0.0, Count(left=10, total=10)), ('norm', 0.5, Count(left=5, total=10))]
    >>> print(*curve.notes, sep="\n")
    0: neurons removed with bias and outgoing weights, read by 2
    2: left: the last layer: its outputs are the model's
    >>> removed = sparsity_curve(
    ...     net, DataLoader(data, 16), (0, 0.8), realize="remove", latency_seconds=0.01
    ... )
    >>> [point.parameters for point in removed], sorted(removed.points[0].metrics)
    ([Count(left=83, total=83), Count(left=19, total=83)], ['bytes', 'latency_ms'])
    """
    realize_name(realize)  # an unknown one is an error now
    levels = check_sparsities(sparsities)
    found = find_scores(scores)
    model = getattr(model, "_orig_mod", model)  # torch.compile takes no hooks after compilation
    selection = select_layers(model, layers, exclude)
    device = device_of(model) if device is None else device

    def unpack(raw: Any) -> tuple[Any, Any]:
        inputs, targets = batch(raw)
        return to_device(inputs, device), to_device(targets, device)

    pieces = Pieces()

    def unpacked() -> Iterator[tuple[Any, Any]]:
        return pieces.of(map(unpack, loader))

    def removed() -> Curve:
        with evaluating(model, loader):
            return removed_curve(
                model,
                unpacked,
                levels,
                found,
                selection,
                realize=realize,
                example_input=to_device(example_input, device),
                latency_batch_size=latency_batch_size,
                latency_seconds=latency_seconds,
                metric=metric,
                loss_fn=loss_fn,
                forward=forward,
                layers=layers,
                exclude=exclude,
                scope=scope,
                initial_norms=initial_norms,
                method=method,
                seed=seed,
            )

    def masked() -> Curve:
        with evaluating(model, loader):
            batches = unpacked()
            first = next(batches, None)
            if first is None:
                raise ValueError("the loader gave no batch: expected at least one")
            anatomy = dissect(model, forward, selection.chosen, first[0])
            rankings = {
                name: rank_neurons(name, score, anatomy, scope, initial_norms, seed)
                for name, score in found.items()
            }
            plan = make_plan(model, forward, anatomy, rankings, levels, first[0])
            measures = Measures(len(plan.variants), metric, loss_fn, anatomy.outputs, first[1])
            sites = {site for variant in plan.variants for site in variant}
            with masking(anatomy.modules, sites) as active:
                replay = Replay(model, forward, anatomy, first[0], plan.variants, active)
                for inputs, targets in chain([first], batches):
                    measures.add_batch(replay.outputs(inputs), targets)
            results = measures.results()
        points = []
        for name, ranking in rankings.items():
            for level in levels:
                network = plan.networks[name, level]
                measured: dict[str, Any] = {**plan.sizes[network], **results[network]}
                points.append(
                    CurvePoint(
                        method=method,
                        seed=seed,
                        score=name,
                        unit=ranking.unit,
                        scope=scope,
                        sparsity=level,
                        **measured,
                    )
                )
        return Curve(tuple(points), _notes(selection, anatomy, rankings, replay.fallback))

    curve = with_enough_memory(masked if realize == "mask" else removed, pieces, loader)
    if pieces.parts > 1:
        note = f"memory was short: batches were evaluated in {pieces.parts} parts each"
        curve = Curve(curve.points, (*curve.notes, note))
    return curve


def _notes(
    selection: Selection, anatomy: Anatomy, rankings: Mapping[str, Ranking], fallback: str
) -> tuple[str, ...]:
    """How each layer was pruned, and which were left."""
    notes = []
    units = {ranking.unit for ranking in rankings.values()}
    for name in selection.chosen:
        flow = anatomy.flows[name]
        if "weights" in units:
            notes.append(f"{name}: single weights masked")
        if "neurons" in units and flow.unknown:
            place = f"after {flow.norm}" if flow.norm else "in its own output"
            notes.append(f"{name}: neurons masked {place}, since {flow.unknown}")
        elif "neurons" in units:
            readers = ", ".join(reader.name for reader in flow.consumers)
            notes.append(
                f"{name}: neurons removed with bias and outgoing weights, read by {readers}"
            )
    notes += [f"{name}: left: {reason}" for name, reason in selection.left.items()]
    if "weights" in units:
        notes.append(
            "MACs of masked weights are saved on paper only: dense layers multiply by zero"
        )
    if fallback:
        notes.append(f"the whole model ran once per network, since {fallback}")
    return tuple(notes)
