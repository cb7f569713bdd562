"""The callback with `EWN(inputs=True)`."""

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from toys.fits import Net, fit

from ewnprune import EWN, AlphaLearningRate, Finetune, LogNormPenalty, WeightNormPruning

LEVELS = (0, 0.5)
GATES = "net.0.parametrizations.weight.original0"


def net():
    torch.manual_seed(0)
    return Net()  # 6 inputs, 10 neurons


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_resuming_is_the_uninterrupted_run_bit_for_bit(tmp_path):
    def run(folder, epochs, ckpt_path=None, method=None):
        callback = WeightNormPruning(method or EWN(inputs=True), LEVELS)
        keep = ModelCheckpoint(tmp_path / folder)
        fit(
            tmp_path / folder, net(), AlphaLearningRate(3), LogNormPenalty(1e-2), callback, keep,
            max_epochs=epochs, ckpt_path=ckpt_path,
        )  # fmt: skip
        return callback.curve, torch.load(keep.best_model_path, weights_only=True), keep

    curve, whole, _ = run("whole", 2)
    _, _, half = run("half", 1)
    again, resumed, _ = run("resumed", 2, half.best_model_path)
    assert again == curve
    assert whole["ewnprune"]["originals"][GATES].shape == (1, 6)
    for part in (lambda c: c["state_dict"], lambda c: c["ewnprune"]["originals"]):
        for key, value in part(whole).items():
            assert torch.equal(torch.as_tensor(part(resumed)[key]), torch.as_tensor(value)), key
    net().load_state_dict(whole["state_dict"])  # plain, and strictly
    with pytest.raises(ValueError, match=r"\(1, 6\) in the checkpoint and \(10, 1\) in this run"):
        run("other", 2, half.best_model_path, EWN())


def test_penalty_and_rate_act_on_the_gates(tmp_path):
    seen = []

    class Watch(WeightNormPruning):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            gates = pl_module.get_parameter(GATES)
            seen.append((gates.detach().clone(), gates.grad.clone()))

    def run(*callbacks):
        seen.clear()
        one = {"max_epochs": 1, "limit_train_batches": 2, "limit_val_batches": 0}
        fit(tmp_path, net(), *callbacks, Watch(EWN(inputs=True), LEVELS), **one)
        return list(seen)

    (before, grad), _ = run()
    (_, pulled), (after, _) = run(LogNormPenalty(0.25), AlphaLearningRate(3))
    torch.testing.assert_close(pulled, grad + 0.25)
    # SGD with momentum steps by the gradient at first, at a rate of 0.1
    torch.testing.assert_close(after, before - 3 * 0.1 * pulled)


def test_finetuning_holds_pruned_neurons_at_zero(tmp_path):
    model = net()
    pruning = WeightNormPruning(EWN(inputs=True), LEVELS, finetune=Finetune(1, 0.5))
    fit(tmp_path, model, pruning)
    assert (model.net[0].weight.abs().sum(1) == 0).sum() == 5


def test_weight_space_is_refused():
    with pytest.raises(ValueError, match=r"weight_space=True with parametrization=EWN\(inputs"):
        WeightNormPruning(EWN(inputs=True), weight_space=True)
