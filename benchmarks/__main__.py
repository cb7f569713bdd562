"""All measurements: what there is, and the tables of speed one after the other.

python -m benchmarks           # the list
python -m benchmarks --speed   # reproduce the tables of speed in README.md
"""

import argparse
import ast
import subprocess
import sys
from pathlib import Path

SPEED = (
    "step",
    "step --compile",
    "step --network ResNet18",
    "step --network ResNet18 --compile --rounds 3",
    "nested_step --rounds 3 --steps 20",
    "nested_step --batch 4",
    "epoch",
    "startup",
    "sweep --without-copies",
    "sweep --network ResNet18 --images 256 --without-copies --rounds 2",
    "sweep --network ResNet18 --images 32 --memory",
    "growth",
)


def listing() -> str:
    """Each measurement with the first line of what it says of itself."""
    lines = []
    for path in sorted(Path(__file__).parent.glob("[a-z]*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.If) and "__main__" in ast.dump(node) for node in tree.body):
            first = (ast.get_docstring(tree) or "").partition("\n")[0]
            lines.append(f"python -m benchmarks.{path.stem:15} {first}")
    return "\n".join(lines)


def main() -> int:
    """List or run; the exit status is that of the worst run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--speed", action="store_true", help="run the tables of speed")
    if not parser.parse_args().speed:
        print(listing())
        return 0
    worst = 0
    for command in SPEED:
        print(f"\n## python -m benchmarks.{command}", flush=True)
        words = [sys.executable, "-m", *f"benchmarks.{command}".split()]
        worst = max(worst, abs(subprocess.run(words, check=False).returncode))
    return worst


if __name__ == "__main__":
    sys.exit(main())
