"""Cases of bad input: drawn, run and counted, with what was found."""

import math
import random
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import ewnprune
from ewnprune import EWN, SWN

EXPECTED = (ValueError, TypeError, OSError)

HOSTILE: list[Any] = [
    None, True, 0, -1, 1, 2, 10**30, 0.5, -0.5, 1.0, 1.5, math.nan, math.inf, -math.inf, "", " ",
    "norm", "nrom", "norm_product", "*", "0", "2", "[", "../../etc/passwd", "\x00", "ü" * 300,
    "os.path.join", "<script>", "%s%n", "[]", [], {}, (), [None], [0.5], [0, 0.5], [1.0], ["norm"],
    [[0.1]], {"a": 1}, b"norm", object(), nn.Linear, nn.ReLU, torch.tensor(0.5), torch.tensor([]),
    torch.tensor([0.5, -1.0]), EWN(), SWN, lambda *_: None, {0.5}, range(3), "0-2", "0,1,1",
    "5-2", "a-b",
]  # fmt: skip


class Cases:
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
            if "\n" in str(error) or not str(error).strip():
                self._found(name, shown, f"{type(error).__name__} that is no line: {error}")
            elif not _is_refusal(error):
                self._found(name, shown, f"raw {type(error).__name__}{_place(error)}: {error}")
        except Exception as error:
            self._found(name, shown, f"{type(error).__name__}{_place(error)}: {str(error)[:200]}")
        if time.monotonic() - began > 60:
            self._found(name, shown, "took a minute")

    def _found(self, name: str, shown: Any, what: str) -> None:
        self.findings.append(f"{name}({str(shown)[:300]}): {what}")


def _last(error: Exception) -> traceback.FrameSummary:
    return traceback.extract_tb(error.__traceback__)[-1]


def _place(error: Exception) -> str:
    where = _last(error)
    return f" at {Path(where.filename).name}:{where.lineno}"


def _is_refusal(error: Exception) -> bool:
    """Whether somebody wrote it: a ``raise``, the system, or a function that was given to us."""
    where = _last(error)
    ours = any(str(Path(of.__file__ or "").parent) in where.filename for of in (ewnprune, torch))
    return not ours or isinstance(error, OSError) or (where.line or "").startswith("raise ")
