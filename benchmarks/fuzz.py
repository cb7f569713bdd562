"""Bad input by the thousand: ``python -m benchmarks.fuzz`` (``--cases 10000 --seed 0``).

Random arguments, many of them hostile, for the public functions, for damaged files, and for the
command line with its YAML (``--commands 400``, which train on a few numbers where accepted). Every
case must give a result that holds what it promises, or an error of a kind that says what was wrong
with the input, in one line; an error leaves the model as it was, and the command line leaves no
folder behind. Anything else is a finding: it is printed, and the status is 1.
"""

import argparse
import contextlib
import copy
import io
import json
import math
import os
import random
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import ewnprune
from ewnprune import EWN, SWN, Curve, CurvePoint
from ewnprune.callback.checkpoint import read_checkpoint
from ewnprune.cli import main as command
from ewnprune.pruning.ranking import check_sparsities
from ewnprune.study.methods import find_methods, parse_methods, parse_seeds

EXPECTED = (ValueError, TypeError, OSError)

HOSTILE: list[Any] = [
    None, True, 0, -1, 1, 2, 10**30, 0.5, -0.5, 1.0, 1.5, math.nan, math.inf, -math.inf, "", " ",
    "norm", "nrom", "norm_product", "*", "0", "2", "[", "../../etc/passwd", "\x00", "ü" * 300,
    "os.system", "<script>", "%s%n", "[]", [], {}, (), [None], [0.5], [0, 0.5], [1.0], ["norm"],
    [[0.1]], {"a": 1}, b"norm", object(), nn.Linear, nn.ReLU, torch.tensor(0.5), torch.tensor([]),
    torch.randn(2), EWN(), SWN, lambda *_: None, {0.5}, range(3), "0-2", "0,1,1", "5-2", "a-b",
]  # fmt: skip


def _net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


X, Y = torch.randn(8, 4, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3


class Fuzz:
    """Runs cases, counts them and keeps the findings."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.rng, self.folder = random.Random(seed), folder
        self.counts: Counter[str] = Counter()
        self.findings: list[str] = []

    def any(self) -> Any:
        """A hostile value, sometimes two in a list."""
        value = self.rng.choice(HOSTILE)
        return [value, self.rng.choice(HOSTILE)] if self.rng.random() < 0.1 else value

    def options(self, good: dict[str, Any]) -> dict[str, Any]:
        """Good options, one or two of them replaced."""
        bad = self.rng.sample(list(good), min(len(good), self.rng.choice((0, 1, 1, 1, 2))))
        return {key: self.any() if key in bad else value for key, value in good.items()}

    def case(self, name: str, run: Callable[[], Any], shown: Any) -> None:
        """One case; ``run`` raises AssertionError for a wrong result."""
        self.counts[name] += 1
        began = time.monotonic()
        try:
            run()
            self.counts["accepted"] += 1
        except EXPECTED as error:
            self.counts["refused"] += 1
            if not str(error).strip():
                self._found(name, shown, f"{type(error).__name__} without a word")
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(where.filename).name}:{where.lineno}"
            self._found(name, shown, f"{type(error).__name__} at {place}: {str(error)[:200]}")
        if time.monotonic() - began > 60:
            self._found(name, shown, "took a minute")

    def _found(self, name: str, shown: Any, what: str) -> None:
        self.findings.append(f"{name}({str(shown)[:300]}): {what}")

    # --- functions -------------------------------------------------------------------------

    def functions(self) -> None:
        """One case of each function."""
        rng = self.rng
        options = self.options({"layers": None, "exclude": None})
        self.case("select_layers", lambda: self._select(options), options)
        kind = rng.choice([EWN(), SWN(), self.any()])
        self.case("reparametrize", lambda: self._attach(kind, options), (kind, options))
        levels = rng.choice([[0, 0.5], [rng.uniform(-0.2, 1.2)], self.any()])
        self.case("check_sparsities", lambda: self._levels(levels), levels)
        sweep = self.options(
            {
                "sparsities": (0, 0.5),
                "scores": ("norm",),
                "scope": rng.choice(("layer", "global")),
                "layers": None,
                "exclude": None,
                "seed": 0,
                "metric": None,
                "loss_fn": None,
            }
        )
        self.case("sparsity_curve", lambda: self._sweep(sweep), sweep)
        remove = self.options({"sparsity": 0.5, "score": "norm", "scope": "layer", "seed": 0})
        self.case("remove_neurons", lambda: self._remove(remove), remove)
        self.case("mask_neurons", lambda: self._mask(remove), remove)
        call = self.options(
            {
                "parametrization": None,
                "sparsities": (0, 0.5),
                "scores": ("norm",),
                "scope": "layer",
                "every_n_epochs": None,
                "loss_levels": (),
                "at_level": ("sweep",),
                "realize": "mask",
                "forward": None,
                "loss_fn": None,
                "finetune": None,
            }
        )
        self.case("WeightNormPruning", lambda: ewnprune.WeightNormPruning(**call), call)
        tune = self.options({"epochs": 1, "sparsity": 0.9, "score": None})
        self.case("Finetune", lambda: ewnprune.Finetune(**tune), tune)
        rate = self.options({"lr": 0.1, "weight_decay": 0.0})
        self.case("EWNSGD", lambda: self._optimizer(ewnprune.EWNSGD, rate), rate)
        self.case("SWNSGD", lambda: self._optimizer(ewnprune.SWNSGD, rate), rate)
        for function in (parse_seeds, find_methods, parse_methods):
            value = self.any()
            self.case(function.__name__, lambda f=function, v=value: f(v), value)
        self.case("read_curve", *self._damaged_curve())
        self.case("read_checkpoint", *self._damaged_checkpoint())

    def _select(self, options: dict[str, Any]) -> None:
        chosen = ewnprune.select_layers(_net(), **options).chosen
        assert chosen
        assert set(chosen) <= {"0", "2", "4"}

    def _attach(self, kind: Any, options: dict[str, Any]) -> None:
        net = _net()
        before, outputs = copy.deepcopy(net.state_dict()), net(X)
        try:
            ewnprune.reparametrize(net, kind, **options)
        except Exception:
            after = net.state_dict()
            assert all(torch.equal(after[key], value) for key, value in before.items()), "changed"
            raise
        torch.testing.assert_close(net(X), outputs, rtol=1e-4, atol=1e-5)
        ewnprune.fold(net)
        assert list(net.state_dict()) == list(before)

    def _levels(self, levels: Any) -> None:
        found = check_sparsities(levels)
        assert all(0 <= level < 1 for level in found)
        assert list(found) == sorted(found)

    def _sweep(self, options: dict[str, Any]) -> None:
        net = _net()
        before = copy.deepcopy(net.state_dict())
        try:
            curve = ewnprune.sparsity_curve(net, [(X, Y)], **options)
        finally:
            assert all(torch.equal(net.state_dict()[k], v) for k, v in before.items()), "changed"
        assert len(curve)
        assert all(0 <= point.sparsity < 1 for point in curve)
        assert all(point.total == 8 for point in curve)

    def _remove(self, options: dict[str, Any]) -> None:
        small = ewnprune.remove_neurons(_net(), example_input=X, **options)
        assert small(X).shape == (8, 3)

    def _mask(self, options: dict[str, Any]) -> None:
        net = _net()
        masked = ewnprune.mask_neurons(net, example_input=X, **options) or net
        assert masked(X).shape == (8, 3)

    def _optimizer(self, kind: Any, options: dict[str, Any]) -> None:
        net = _net()
        optimizer = kind(ewnprune.neuron_param_groups(net), **options)
        net(X).square().sum().backward()
        optimizer.step()

    def _damage(self, content: bytes) -> bytes:
        rng, damaged = self.rng, bytearray(content)
        for _ in range(rng.randint(1, 5)):
            place = rng.randrange(max(1, len(damaged)))
            match rng.choice(("cut", "flip", "insert", "repeat")):
                case "cut":
                    damaged = damaged[:place]
                case "flip" if damaged:
                    damaged[place] ^= 1 << rng.randrange(8)
                case "insert":
                    damaged[place:place] = rng.choice(
                        (b"nan", b'"', b",,", b"\x00", b"\n", b"1e999")
                    )
                case _:
                    damaged += damaged[place:]
        return bytes(damaged)

    def _damaged_curve(self) -> tuple[Callable[[], None], str]:
        path = self.folder / f"curve{self.rng.choice(('.csv', '.json'))}"
        point = CurvePoint(method="EWN", score="norm", sparsity=0.5, accuracy=0.75, seed=1)
        ewnprune.write_curve(Curve((point, point)), path)
        content = self._damage(path.read_bytes())
        path.write_bytes(content)

        def read() -> None:
            curve = ewnprune.read_curve(path)
            again = path.with_stem("again")
            ewnprune.write_curve(curve, again)
            assert repr(ewnprune.read_curve(again).points) == repr(curve.points)

        return read, repr(content)

    def _damaged_checkpoint(self) -> tuple[Callable[[], None], str]:
        path = self.folder / "damaged.ckpt"
        torch.save({"state_dict": {"w": torch.arange(6.0)}, "epoch": 3}, path)
        content = self._damage(path.read_bytes())
        path.write_bytes(content)

        def read() -> None:
            assert isinstance(read_checkpoint(path)["state_dict"], dict)

        return read, repr(content[:40])

    # --- the command line ------------------------------------------------------------------

    def command(self) -> None:
        """One command line, or YAML, of good and bad options."""
        rng = self.rng
        keys = [
            "prune.sparsities", "prune.scores", "prune.layers", "prune.exclude", "prune.scope",
            "prune.every_n_epochs", "prune.parametrization", "prune.metric", "prune.loss_levels",
            "prune.at_level", "prune.weight_space", "prune.finetune", "prune.finetune.epochs",
            "prune.forward", "model", "model.network", "model.optimizer",
            "model.num_classes", "data", "data.batch_size", "trainer.max_epochs",
            "trainer.precision",
            "trainer.accelerator", "trainer.devices", "trainer.callbacks", "trainer.nonsense",
            "seed_everything", "ckpt_path", "config", "", "prune", "trainer",
        ]  # fmt: skip
        values = [
            "", "null", "0", "-1", "1e400", "nan", ".inf", "[0, 0.5]", "[0.5, 0.5]", "[1.0]", "[",
            "{",
            "{}", "norm", "[norm]", "[nrom]", "EWN", "SWN", "Nothing", "os.system", "a: b: c", "💥",
            "true", "layer", "global", "net.*", "/", "/dev/null", "../..", "!!python/object:os.x",
            "&a [*a]", "torch.nn.ReLU", "lightning_modules.MLP", "sweep", "[stop]", "'", "9" * 400,
        ]  # fmt: skip
        chosen = [(rng.choice(keys), rng.choice(values)) for _ in range(rng.choice((1, 1, 2)))]
        words = [rng.choice(("fit",) * 6 + ("test", "sweep", "export", "report", "compare", "fti"))]
        small = {"--config", "tiny.yaml", "--trainer.fast_dev_run=1"}
        words += ["--config", "tiny.yaml", "--trainer.fast_dev_run=1"] * (
            words[0] in ("fit", "test")
        )
        if rng.random() < 0.3:
            text = "\n".join(f"{key}: {value}" for key, value in chosen)
            Path("case.yaml").write_text(text, encoding="utf-8")
            words += ["--config", "case.yaml"]
        else:
            words += [f"--{key}={value}" for key, value in chosen]
        shown = [word for word in words if word not in small] + [
            text if "case.yaml" in words else ""
        ]
        self.case("command line", lambda: self._command(words), shown)

    def _command(self, words: list[str]) -> None:
        out, err = io.StringIO(), io.StringIO()
        before = set(os.listdir())
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = command(words)
        text = out.getvalue() + err.getvalue()
        assert "Traceback" not in text, text[-300:]
        assert set(os.listdir()) <= before, f"left behind: {set(os.listdir()) - before}"
        if status:
            last = [line for line in err.getvalue().splitlines() if line.startswith("ewnprune: ")]
            assert last, f"status {status} and no word: {err.getvalue()[-300:]}"
            raise ValueError(last[-1])


def main(words: list[str] | None = None) -> int:
    """Fuzz."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000, help="of the functions")
    parser.add_argument("--commands", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(words)
    warnings.filterwarnings("ignore")
    torch.manual_seed(options.seed)
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        from benchmarks.faults import _CONFIG, _TOY

        fuzz = Fuzz(options.seed, Path(folder))
        while sum(n for key, n in fuzz.counts.items() if key not in _ENDS) < options.cases:
            fuzz.functions()
        (Path(folder) / "faults_toy.py").write_text(_TOY)
        sys.path.insert(0, folder)
        os.chdir(folder)
        try:
            Path("tiny.yaml").write_text(json.dumps(_CONFIG))
            Path("case.yaml").touch()
            for _ in range(options.commands):
                fuzz.command()
        finally:
            os.chdir(here)
    ends = {key: fuzz.counts.pop(key) for key in _ENDS}
    print(
        f"{sum(fuzz.counts.values())} cases: {ends['accepted']} accepted, {ends['refused']} refused"
    )
    print(", ".join(f"{name} {count}" for name, count in sorted(fuzz.counts.items())))
    kinds = Counter(finding.partition("): ")[2][:90] for finding in fuzz.findings)
    for kind, count in kinds.most_common():
        example = next(f for f in fuzz.findings if f.partition("): ")[2][:90] == kind)
        print(f"finding, {count} times: {example}")
    print(f"{len(fuzz.findings)} findings")
    return 1 if fuzz.findings else 0


_ENDS = ("accepted", "refused")


if __name__ == "__main__":
    sys.exit(main())
