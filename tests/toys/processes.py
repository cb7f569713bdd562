"""Python in a process of its own, which finds what this one finds: the package and the toys."""

import os
import subprocess
import sys


def environment(**more):
    paths = os.pathsep.join(path for path in sys.path if path)
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, **more}


def run_python(*words, cwd=None, timeout=300, **more):
    """Runs `python *words` to its end; `more` goes into its environment."""
    return subprocess.run(
        [sys.executable, *map(str, words)], cwd=cwd, env=environment(**more), text=True,
        capture_output=True, timeout=timeout, check=False,
    )  # fmt: skip
