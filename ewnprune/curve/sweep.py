"""`sparsity_curve`: accuracy at many levels of sparsity, in one pass over the data."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from ewnprune.curve.built import Realize, measure_costs
from ewnprune.curve.curve import Curve
from ewnprune.curve.measures import Loss, Measures
from ewnprune.curve.memory import Pieces, with_enough_memory
from ewnprune.curve.plan import how_run, make_plan, orders, refuse_weights
from ewnprune.curve.replay import Replay
from ewnprune.errors import check_choice
from ewnprune.model.batches import Batch, inputs_and_targets
from ewnprune.model.copying import plain_network
from ewnprune.model.layers import LayerPatterns
from ewnprune.model.preserve import as_made, evaluating
from ewnprune.model.tensors import device_of, to_device
from ewnprune.model.tracing import Forward, call
from ewnprune.pruning.budget import LevelOf
from ewnprune.pruning.choice import Choice
from ewnprune.pruning.heads import Heads
from ewnprune.pruning.inputs import agree_on_deviations
from ewnprune.pruning.notes import Note
from ewnprune.pruning.ranking import SPARSITIES, Scope, check_sparsities
from ewnprune.pruning.recalibration import (
    note_of_statistics,
    training_inputs,
    with_statistics,
)
from ewnprune.pruning.score_names import Score, find_scores
from ewnprune.pruning.scores import Measured
from ewnprune.pruning.seen import Couple
from ewnprune.pruning.sensitivity import Sensitivity
from ewnprune.pruning.smaller import refuse_unfollowed


def sparsity_curve(
    model: nn.Module,
    loader: Iterable[Any],
    sparsities: Iterable[float] = SPARSITIES,
    scores: str | Score | Sequence[str | Score] = ("norm",),
    *,
    metric: Metric | MetricCollection | None = None,
    loss_fn: Loss | None = None,
    layers: LayerPatterns | None = None,
    exclude: LayerPatterns | None = None,
    scope: Scope = "layer",
    max_per_layer: float | None = None,
    round_to: int = 1,
    heads: Heads = "keep",
    inputs: bool = False,
    couple: Couple = "mean",
    initial_norms: Mapping[str, Tensor] | None = None,
    measured: Measured | None = None,
    sensitivity: Sensitivity | None = None,
    device: torch.device | str | None = None,
    method: str = "",
    seed: int | None = None,
    realize: Realize = "mask",
    level_of: LevelOf = "units",
    per_layer: bool = False,
    example_input: Any = None,
    latency_batch_size: int = 1,
    latency_seconds: float = 0.5,
    recalibrate: Iterable[Any] | None = None,
    forward: Forward = call,
    batch: Batch = inputs_and_targets,
) -> Curve:
    r"""Prune at every level by every score, without touching the model, and measure each network.

    All levels and scores are evaluated in one pass over the loader, and every point is of the very
    network that `remove_neurons` builds at that level: its neurons, parameters and MACs are counted
    on it. It is made, run on a batch and dropped. Where nobody can follow who reads the neurons of
    a layer, they are set to zero in its own output instead, and only they count as gone. The
    curve's notes say which was done, group by group, and which layers were left.

    With ``realize="remove"`` each network is kept and measured too, and what nobody can follow is
    refused. Each point's metrics then hold ``"bytes"``, the size of its state dict on disk, and
    ``"latency_ms"``, the median time of a forward pass after warming up; the notes say at which
    batch size, on what device.

    The model is left bit for bit as it was: parameters, buffers, train flags, and the state of
    all random number generators, those of the loader and its samplers included. For a progress bar
    wrap the loader; generators that it hides are not put back. With several processes each gives
    its own part of the data and the same network, all must call, and counts are summed over them.
    Where memory is short the data are gone over anew with batches cut into halves, quarters and so
    on, which a note of the curve says; an error where processes estimate statistics together.

    Args:
        model: any module; it is evaluated in eval mode, where it lies.
        loader: gives the batches.
        sparsities: the levels, in [0, 1). ``round(level * units)`` go, but never a whole layer.
        scores: functions of `ewnprune.scores`, by name or import path, or any `Score`.
        metric: further measures: any torchmetrics metric or collection, computed per network.
        loss_fn: from outputs and targets to the mean loss of the batch, or one loss per sample;
            cross-entropy for classification, unless the outputs are probabilities already.
        layers: which layers, see `select_layers`; by default every Linear and convolution but
            the last, and every recurrent layer.
        exclude: which of them to leave.
        scope: ``"layer"`` removes the same fraction of each layer, ``"global"`` the lowest
            scores of all; see `ewnprune.pruning.ranking.Scope` for ``"normalized"`` and others.
        max_per_layer: across layers, the fraction of a layer that goes at most.
        round_to: a multiple for the number of neurons that stay, see `remove_neurons`.
        heads: what goes of attention, see `remove_neurons`.
        inputs: True removes features of the inputs in place of neurons, see `remove_neurons`:
            levels are fractions of those, and points have ``unit="inputs"``. Standard deviations
            are those over ``recalibrate``, else ``example_input``, else the loader's first batch.
        couple: the score of neurons that go together, see `remove_neurons`.
        initial_norms: norms at initialisation by layer name, for scores that need them.
        measured: what `measure_neurons` gives, for scores that go by data.
        sensitivity: what `Curve.sensitivity` gives, for the scope of that name.
        device: where to put the batches; the device of the model's first parameter by default.
        method: name of the training method, for the curve.
        seed: seed of the run, for the curve; scores that draw numbers take it as theirs.
        realize: ``"mask"``, ``"remove"`` or ``"repair"``, see `ewnprune.curve.built.Realize`.
        level_of: what the levels are fractions of: of the ``"units"`` that can go, or of the whole
            network's ``"parameters"`` or ``"macs"``: at 0.9 the largest network without 90 % of its
            MACs. So scores, scopes and methods are compared at equal cost.
        per_layer: prune each layer alone, or each group of layers whose neurons go together, all
            others dense: where a network is sensitive. Points say which in ``layer``, and a scope
            has no meaning. See `plot_heat_map`.
        example_input: with ``"repair"``, the batch that it learns from: give one of training data;
            by default the loader's first.
        latency_batch_size: samples per forward pass, where the time is measured.
        latency_seconds: how long to measure each network.
        recalibrate: training batches, never test data, on which the running statistics of
            BatchNorms are estimated anew for each network but the whole one; all of them, so give
            some twenty: ``islice(train_loader, 20)``. None leaves the model's, which are those of
            other inputs once neurons are gone.
        forward: from model and inputs to outputs; ``model(inputs)`` by default.
        batch: from a batch of the loader to inputs and targets.

    Returns:
        One point per score and level, or per score, layer and level. Accuracy is top-1, of class
        scores ``(B, C, ...)`` and class indices ``(B, ...)``; a prediction with a NaN among its
        scores counts as wrong. Targets that are no class (negative, 255, or the ``ignore_index``
        of the loss) are left out. Where outputs are a mapping with ``logits`` (transformers'
        ``ModelOutput``), those are the scores, and what a metric is given; ``loss_fn`` is given
        all.

    Raises:
        ValueError: levels, scores, layers, metric, loss or batches that do not fit, a layer that
            nobody can follow and that is to be removed, a level of a cost that no network has, a
            loader without batches.

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
    check_choice("realize", realize, Realize)
    check_choice("level_of", level_of, LevelOf)
    if per_layer and level_of != "units":
        raise ValueError(
            f"per_layer=True prunes layers alone: expected level_of='units', got {level_of!r}"
        )
    levels = check_sparsities(sparsities)
    functions = find_scores(scores)
    if per_layer:  # by the order in each
        scope, max_per_layer, sensitivity = "layer", None, None
    choice = Choice(
        layers=layers,
        exclude=exclude,
        scope=scope,
        round_to=round_to,
        heads=heads,
        inputs=inputs,
        couple=couple,
        initial_norms=initial_norms,
        seed=seed,
        max_per_layer=max_per_layer,
        measured=measured,
        sensitivity=sensitivity,
    )
    model = as_made(model)
    device = device_of(model) if device is None else device

    def unpack(raw: Any) -> tuple[Any, Any]:
        given, targets = batch(raw)
        return to_device(given, device), to_device(targets, device)

    training: list[Any] = []
    estimating = bool(with_statistics(model))
    if recalibrate is not None and levels[-1] > 0 and (inputs or estimating):
        training = training_inputs(model, recalibrate, batch)
    pieces = Pieces()

    def attempt() -> Curve:
        with evaluating(model, loader):
            batches = pieces.of(map(unpack, loader))
            first = next(batches, None)
            if first is None:
                raise ValueError("the loader gave no batch: expected at least one")
            example = first[0] if example_input is None else to_device(example_input, device)
            found = choice.find(plain_network(model), forward, first[0], training or [example])
            agree_on_deviations(found, device_of(model))
            ranked = {name: choice.rank(found, name, f) for name, f in functions.items()}
            rankings = {name: ranking for name, (ranking, _) in ranked.items()}
            notes = [*found.notes(), *chain(*(told for _, told in ranked.values()))]
            if realize != "mask":
                refuse_weights(rankings)
                refuse_unfollowed(model, found.unfollowed)
            plan = make_plan(
                found,
                forward,
                choice,
                orders(rankings, per_layer),
                levels,
                first[0],
                example if realize == "repair" else None,
                training if estimating else [],
                level_of,
            )
            measures = Measures(
                len(plan.variants), metric, loss_fn, found.anatomy.outputs, first[1]
            )
            replay = Replay(plan.variants, forward, first[0])
            for given, targets in chain([first], batches):
                measures.add_batch(replay.outputs(given), targets)
            costs: list[dict[str, float]] = [{} for _ in plan.variants]
            if realize != "mask":
                costs, how = measure_costs(
                    plan.variants, forward, first[0], latency_batch_size, latency_seconds
                )
                notes += how
            results = measures.results()  # summed over processes: memory must not be short later
            for result, cost in zip(results, costs, strict=True):
                result["metrics"] = {**result["metrics"], **cost}
        changed = [variant.statistics for variant in plan.variants if variant.touched]
        if training and estimating and changed:
            notes.append(note_of_statistics(found.network, changed[0], training))
        notes += [Note("measures", text) for text in measures.unmeasured]
        notes += how_run(rankings, replay.fallback, [v.compact for v in plan.variants])
        units = {name: "inputs" if inputs else rankings[name].unit for name in functions}
        same: dict[str, Any] = {"method": method, "seed": seed, "scope": scope, "realize": realize}
        same |= {"level_of": level_of, "max_per_layer": max_per_layer}
        return Curve(plan.points(results, units, **same), tuple(notes))

    curve = with_enough_memory(attempt, pieces, loader, together=inputs or bool(training))
    if pieces.parts > 1:
        text = f"memory was short: batches were evaluated in {pieces.parts} parts each"
        curve = Curve(curve.points, (*curve.notes, Note("run", text)))
    return curve
