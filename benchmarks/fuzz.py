"""Bad input by the thousand: ``python -m benchmarks.fuzz`` (``--cases 10000 --seed 0``).

Random arguments, many of them hostile, for the public functions, for damaged files, and for the
command line with its YAML (``--commands 400``, which train on a few numbers where accepted). Every
case must give a result that holds what it promises, or an error of a kind that says what was wrong
with the input, in one line; an error leaves the model as it was, and the command line leaves no
folder behind. Anything else is a finding: it is printed, and the status is 1.
"""

import argparse
import contextlib
import io
import json
import os
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import torch

from benchmarks.fuzz_functions import Functions
from ewnprune.cli import main as command


class Fuzz(Functions):
    """Cases of the functions, and of the command line."""

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
