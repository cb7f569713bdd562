"""transformers by the front door: the model's own call, ``model(**batch)``, and what it gives."""

import subprocess
import sys
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from toys.transformer_models import KINDS, batch_of, gpt2, spread

from ewnprune import EWN, fold, mask_neurons, remove_neurons, reparametrize, sparsity_curve
from ewnprune.export.calling import Calling
from ewnprune.export.formats import find_format
from ewnprune.pruning.removal import remove_with_notes

EVERY = pytest.mark.parametrize("kind", KINDS)
SLOW = {"Llama": pytest.mark.slow}  # beside it the one with grouped queries
CLASSIFIERS = [pytest.param(k, marks=SLOW.get(k, ())) for k in KINDS if k != "MiniLM"]


def _tensors(outputs):
    """What a ``ModelOutput`` has of tensors; its cache holds the keys and values of all heads."""
    return {key: value for key, value in outputs.items() if isinstance(value, torch.Tensor)}


def _agree(one, other):
    one, other = _tensors(one), _tensors(other)
    assert one.keys() == other.keys() and one
    for key in one:
        torch.testing.assert_close(one[key], other[key], rtol=1e-5, atol=1e-5)


def _apart(one, other):
    pairs = zip(_tensors(one).values(), _tensors(other).values(), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


@EVERY
def test_attached_and_folded_it_is_the_same(kind):
    model, batch = KINDS[kind].make()
    keys = list(model.state_dict())
    with torch.no_grad():
        before = model(**batch)
        selection = reparametrize(model, EWN())
        layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
        convs = [m for m in model.modules() if "Conv1D" in type(m).__name__]
        assert len(selection.chosen) == len(layers) + len(convs) - 1
        _agree(model(**batch), before)
    _tensors(model(**batch)).popitem()[1].square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    fold(model)
    assert list(model.state_dict()) == keys
    with torch.no_grad():
        _agree(model(**batch), before)


def _without(layer, columns):
    """Zeros where a layer reads these inputs: a Linear's columns, the rows of GPT-2's Conv1D."""
    with torch.no_grad():
        weight = layer.weight if isinstance(layer, nn.Linear) else layer.weight.T
        weight[:, columns] = 0


@EVERY
def test_hidden_neurons_go_and_it_equals_the_masked_one(kind):
    where = KINDS[kind]
    model, batch = where.make()
    gone = [0, 5, 7, 40]
    names = [f"{where.layer}.{name}" for name in where.hidden]
    small = remove_neurons(model, indices={names[0]: gone}, example_input=batch, forward=spread)
    masked = deepcopy(model)
    _without(masked.get_submodule(f"{where.layer}.{where.back}"), gone)
    with torch.no_grad():
        _agree(small(**batch), masked(**batch))
        assert _apart(small(**batch), model(**batch)) > 1e-3
        full = batch_of(model, 3)  # a batch without padding takes another way
        if "input_ids" in full:
            full["attention_mask"][:] = 1
        _agree(small(**full), masked(**full))
    for name in names:
        shape = small.get_submodule(name).weight.shape
        assert shape == ((32, 124) if kind == "GPT-2" else (44, 32))
    assert type(small) is type(model) and type(small(**batch)) is type(model(**batch))


@EVERY
def test_heads_go_and_it_equals_the_masked_one(kind):
    where = KINDS[kind]
    model, batch = where.make()
    name = f"{where.layer}.{where.attention}"
    small = remove_neurons(
        model, indices={name: [1]}, example_input=batch, heads="whole", forward=spread
    )
    masked = deepcopy(model)
    first, width = where.step, 8 * where.step
    _without(
        masked.get_submodule(f"{where.layer}.{where.out}"), range(8 * first, 8 * first + width)
    )
    with torch.no_grad():
        _agree(small(**batch), masked(**batch))
        assert _apart(small(**batch), model(**batch)) > 1e-3
    removed = model.num_parameters() - small.num_parameters()
    shared = 32 * 8 * (2 + 2 * where.step)  # keys and values, queries and what reads them
    biases = 8 * (2 + where.step) if kind not in ("Llama", "Llama, grouped queries") else 0
    assert removed == shared + biases


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_a_curve_is_of_the_networks_that_removal_builds(kind):
    model, batch = KINDS[kind].make()
    targets = torch.tensor([0, 1, 2, 1])
    options = {"forward": spread, "heads": "whole"}
    before = {key: value.clone() for key, value in model.state_dict().items()}
    given = {"inputs": batch, "labels": targets}

    def unpack(batch):
        return batch["inputs"], batch["labels"]

    curves = [
        sparsity_curve(
            model, [given], (0, 0.5), realize=realize, latency_seconds=0.01, batch=unpack, **options
        )
        for realize in ("mask", "remove")
    ]
    assert all(model.state_dict()[key].equal(value) for key, value in before.items())
    assert {note.kind for note in curves[0].notes} <= {"removed", "left"}
    for curve in curves:
        for point in curve:
            with torch.no_grad():
                small = remove_with_notes(model, point.sparsity, batch, **options).model
                logits = small(**batch).logits
            assert point.loss == pytest.approx(F.cross_entropy(logits, targets).item(), rel=1e-6)
            assert point.correct == int((logits.argmax(1) == targets).sum())
            assert point.parameters.left == sum(p.numel() for p in small.parameters())
    assert curves[0].points[1].parameters.left < 0.4 * curves[0].points[1].parameters.total
    labelled = {**batch, "labels": targets}  # with which the model gives its loss too
    (_, point) = sparsity_curve(
        model, [labelled], (0, 0.5), batch=lambda b: (b, targets), **options
    )
    assert (point.loss, point.correct) == (curves[0].points[1].loss, curves[0].points[1].correct)


def test_what_minilm_gives_stays_and_is_compared():
    """The hidden states are outputs, through a mean over words too."""
    model, batch = KINDS["MiniLM"].make()

    def embed(model, batch):
        states, mask = model(**batch).last_hidden_state, batch["attention_mask"][..., None]
        return F.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)

    def apart(embedded, expected):
        return 1 - (embedded * expected).sum(-1)

    with torch.no_grad():
        expected = embed(model, batch)
    for forward in (spread, embed):
        removal = remove_with_notes(model, 0.5, batch, heads="whole", forward=forward)
        stays = [str(note) for note in removal.notes if note.kind == "stays"]
        assert len(stays) == 1
        assert stays[0].startswith("encoder.layer.0.attention.output.dense, encoder.layer.0.output")
        assert stays[0].endswith("stays: its channels are outputs of the model")
        assert removal.left["encoder.layer.1.intermediate.dense"] == (24, 48)
    curve = sparsity_curve(
        model, [(batch, expected)], (0, 0.5), forward=embed, heads="whole", loss_fn=apart
    )
    with torch.no_grad():
        loss = float(apart(embed(removal.model, batch), expected).mean())
    assert [point.loss for point in curve] == pytest.approx([0, loss], abs=1e-9) and loss > 1e-3


@EVERY
def test_a_call_without_its_names_is_told_in_one_line(kind):
    model, batch = KINDS[kind].make()
    with pytest.raises(
        ValueError, match=r"give forward=.* lambda model, inputs: model\(\*\*inp"
    ) as e:
        remove_neurons(model, 0.5, batch)
    assert len(str(e.value)) <= 300 and "\n" not in str(e.value)


def test_weights_that_gpt2_ties_are_refused_and_its_other_neurons_go():
    where = KINDS["GPT-2"]
    model, batch = KINDS["GPT-2"].make()
    tied = gpt2("GPT2LMHeadModel").double().eval()
    with pytest.raises(ValueError, match=r"'lm_head' shares its weight with 'transf"):
        remove_neurons(tied, 0.5, batch, forward=spread)
    small = remove_neurons(tied, 0.5, batch, exclude="*.c_proj", heads="whole", forward=spread)
    assert small.lm_head.weight is small.transformer.wte.weight
    assert small.get_submodule(f"{where.layer}.attn.c_attn").weight.shape == (32, 48)
    # zeros in place, where the weight is (in, out)
    keep = mask_neurons(model, 0.25, batch, layers="*.c_fc", forward=spread)
    layer = model.transformer.h[0].mlp.c_fc
    assert int(keep["transformer.h.0.mlp.c_fc"].sum()) == 96
    assert (layer.weight == 0).all(0).equal(~keep["transformer.h.0.mlp.c_fc"])


@pytest.mark.parametrize("kind", ["Llama", "Llama, grouped queries"])
def test_dimensions_that_are_rotated_are_refused_in_one_line(kind):
    model, batch = KINDS[kind].make()
    with pytest.raises(ValueError, match="without them the network does not") as caught:
        remove_neurons(model, 0.5, batch, heads="dims", forward=spread)
    assert len(str(caught.value)) <= 300 and "\n" not in str(caught.value)


ELSEWHERE = """
import sys, torch
from pathlib import Path
for path in Path(sys.argv[1]).glob("*.pt2"):
    network = torch.export.load(path).module()
    batch = torch.load(path.with_suffix(".x"), weights_only=True)
    torch.save(network(**batch), path.with_suffix(".y"))
assert not {"ewnprune", "transformers"} & {name.partition(".")[0] for name in sys.modules}
"""


@pytest.mark.slow
def test_files_of_smaller_networks_are_read_where_neither_is_installed(tmp_path):
    networks = {}
    for kind in ("BERT", "ViT", "GPT-2", "Llama, grouped queries"):  # the others are much the same
        model, batch = KINDS[kind].make()
        small = remove_with_notes(model, 0.5, batch, heads="whole", forward=spread).model
        path = tmp_path / f"{kind}.pt2"
        find_format("torch_export").write(Calling(small, batch, spread), path)
        other = batch_of(model, 7)
        torch.save(dict(other), path.with_suffix(".x"))
        networks[path.with_suffix(".y")] = small, other
    words = [sys.executable, "-I", "-W", "ignore", "-c", ELSEWHERE, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for path, (small, other) in networks.items():
        with torch.no_grad():
            _agree(torch.load(path, weights_only=True), small(**other))


@EVERY
def test_weights_of_the_smaller_network_are_read_back(kind, tmp_path):
    model, batch = KINDS[kind].make()
    small = remove_with_notes(model, 0.5, batch, heads="whole", forward=spread).model
    for name in ("state_dict", "safetensors"):
        format_ = find_format(name)
        calling = Calling(small, batch, spread)
        format_.write(calling, tmp_path / format_.file)
        with torch.no_grad():
            _agree(format_.read(tmp_path / format_.file, calling)(batch), small(**batch))
