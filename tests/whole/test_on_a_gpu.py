"""Where there is a GPU: what is measured, pruned and trained on it is as on the CPU."""

import copy

import pytest
import pytorch_lightning as pl
import torch
import torchvision
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from toys.fits import make_trainer

from ewnprune import (
    EWN,
    EWNSGD,
    HAM,
    SWN,
    AlphaLearningRate,
    DGating,
    Distillation,
    FactorDecay,
    GroupLasso,
    NestedTraining,
    NetworkSlimming,
    WeightNormPruning,
    fold,
    measure_neurons,
    prunable_recipe,
    remove_neurons,
    reparametrize,
    sparsity_curve,
)
from ewnprune.model.latency import measure_latency
from lightning_modules import CNN, MLP, Classifier, ResNet20

if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("default")  # advice on the GPU that is at hand
DEVICE = torch.device("cuda")
LEVELS = (0, 0.5, 0.8)
SCORES = ("norm", "taylor", "activation")
DIGIT, PHOTO = (1, 28, 28), (3, 32, 32)


def batches(shape=DIGIT, device=DEVICE, dtype=torch.float32, count=3, size=64):
    draw = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(size, *shape, generator=draw).to(device, dtype),
            torch.randint(10, (size,), generator=draw).to(device),
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize(
    ("make", "shape"), [(MLP, DIGIT), (CNN, DIGIT), (ResNet20, PHOTO)], ids=["mlp", "cnn", "resnet"]
)
@pytest.mark.parametrize("realize", ["mask", "remove"])
def test_a_curve_is_that_of_the_cpu(make, shape, realize):
    network = make().double()
    found = []
    for device in ("cpu", DEVICE):
        network.to(device)
        given = batches(shape, device, torch.float64)
        state = torch.cuda.get_rng_state()
        measured = measure_neurons(network, given)
        found.append(
            sparsity_curve(
                network, given, LEVELS, SCORES, realize=realize, measured=measured,
                latency_seconds=0.01,
            )
        )  # fmt: skip
        assert torch.equal(torch.cuda.get_rng_state(), state)
    cpu, gpu = found
    assert [point.macs for point in gpu] == [point.macs for point in cpu]
    losses = [point.loss for point in cpu]
    assert [point.loss for point in gpu] == pytest.approx(losses, rel=1e-6)


@pytest.mark.parametrize("precision", ["highest", "high"])
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "vgg11_bn", "vit_b_16"])
def test_neurons_are_removed_whatever_is_computed_in_tf32(name, precision):
    network = getattr(torchvision.models, name)().to(DEVICE).eval()
    x = torch.randn(4, 3, *(224, 224) if name == "vit_b_16" else (64, 64), device=DEVICE)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        smaller = remove_neurons(network, 0.5, x)  # which compares outputs
    finally:
        torch.set_float32_matmul_precision(before)
    assert {parameter.device.type for parameter in smaller.parameters()} == {"cuda"}


class Words(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.rnn = layer(8, 16, 2, batch_first=True)
        self.hidden, self.head = nn.Linear(16, 12), nn.Linear(12, 10)

    def forward(self, x):
        return self.head(self.hidden(self.rnn(x)[0][:, -1]).relu())


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU, nn.RNN])
def test_cudnn_gives_gradients_behind_recurrent_layers(layer):
    network, given = Words(layer).to(DEVICE).eval(), batches((7, 8))
    measured = measure_neurons(network, given)
    assert measured["taylor"]["hidden"].isfinite().all()
    curve = sparsity_curve(network, given, LEVELS, SCORES, measured=measured, exclude="rnn")
    assert len(curve.points) == 9
    assert remove_neurons(network, 0.5, given[0][0]).rnn.hidden_size == 8


def test_autocast_keeps_no_weights_of_a_curve():
    network, given = MLP().to(DEVICE), batches(count=1)
    with torch.autocast("cuda", torch.bfloat16):
        sparsity_curve(network, given, LEVELS)
        before = torch.cuda.memory_allocated()
        sparsity_curve(network, given, [k / 50 for k in range(49)])
        assert torch.cuda.memory_allocated() - before < 2**20


def test_latency_is_that_of_the_gpu():
    small, large = MLP().to(DEVICE), MLP(hidden=(16_384, 16_384)).to(DEVICE)
    x = torch.randn(4096, 1, 28, 28, device=DEVICE)
    found = measure_latency({"small": small, "large": large}, x, seconds=0.1)
    assert found["small"].device == torch.cuda.get_device_name()
    assert 0 < found["small"].milliseconds < found["large"].milliseconds


def steps(network, device, optimizer):
    for x, y in batches(device=device, dtype=torch.float64):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x), y).backward()
        optimizer.step()


@pytest.mark.parametrize("parametrization", [EWN(), SWN(), DGating(3), None], ids=str)
def test_steps_are_those_of_the_cpu(parametrization):
    """Under a parametrization, and by `EWNSGD` without one."""
    found = []
    for device in ("cpu", DEVICE):
        torch.manual_seed(0)
        network = MLP().double().to(device)
        if parametrization is None:
            steps(network, device, EWNSGD(network.parameters(), lr=0.1))
        else:
            reparametrize(network, parametrization)
            steps(network, device, torch.optim.SGD(network.parameters(), 0.1, momentum=0.9))
            fold(network)
        found.append([parameter.cpu() for parameter in network.parameters()])
    for cpu, gpu in zip(*found, strict=True):
        torch.testing.assert_close(gpu, cpu)


def test_gradients_in_float32_are_those_in_float64():
    network = MLP().to(DEVICE)
    reparametrize(network, EWN())
    exact = copy.deepcopy(network).double()
    ((x, y),) = batches(count=1)
    for each, dtype in ((network, torch.float32), (exact, torch.float64)):
        nn.functional.cross_entropy(each(x.to(dtype)), y).backward()
    for one, other in zip(network.parameters(), exact.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad.float(), rtol=1e-4, atol=1e-6)


TRAININGS = {
    "recipe": prunable_recipe,
    "distilled": lambda: [
        NestedTraining(0.5, LEVELS[1:], distill=Distillation()),
        WeightNormPruning(EWN(), LEVELS),
    ],
    "every network": lambda: [
        NestedTraining("every", LEVELS[1:], inner_gradient=0.3),
        WeightNormPruning(EWN(), LEVELS),
    ],
    "lasso": lambda: [GroupLasso(1e-3), WeightNormPruning(SWN(), LEVELS)],
    "d_gating": lambda: [FactorDecay(1e-3), WeightNormPruning(DGating(3), LEVELS)],
    "ham": lambda: [HAM(1e-3), WeightNormPruning(None, LEVELS)],
    "batchnorm": lambda: [
        AlphaLearningRate(10),
        NestedTraining(0.5, LEVELS[1:]),
        WeightNormPruning(EWN(batchnorm=True), LEVELS),
    ],
    "slimming": lambda: [NetworkSlimming(1e-3), WeightNormPruning(None, LEVELS)],
}


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed", "bf16-true"])
@pytest.mark.parametrize("training", TRAININGS)
def test_a_fit_gives_a_curve_and_a_plain_checkpoint(tmp_path, training, precision):
    small = training in ("batchnorm", "slimming")
    make, shape = (ResNet20, PHOTO) if small else (MLP, DIGIT)
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(256, *shape), torch.randint(10, (256,)))
    callbacks = TRAININGS[training]()
    saved = pl.callbacks.ModelCheckpoint(tmp_path)
    trainer = make_trainer(tmp_path, saved, *callbacks, accelerator="gpu", precision=precision)
    trainer.fit(Classifier(make()), DataLoader(data, 64), DataLoader(data, 64))
    (pruning,) = [one for one in callbacks if isinstance(one, WeightNormPruning)]
    assert pruning.curve.points
    stored = torch.load(saved.best_model_path, weights_only=True)["state_dict"]
    assert all(tensor.isfinite().all() for tensor in stored.values())
    Classifier(make()).load_state_dict(stored)
