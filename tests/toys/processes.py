"""Python in processes of their own, which find what this one finds: the package and the toys."""

import multiprocessing
import os
import socket
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


def run_together(source, *words):
    """Runs a program twice at once, as rank 0 and 1: ``sys.argv`` has the rank and the words.

    A Trainer in it takes them for the two processes of its strategy, and starts none.

    Forked from a process that has imported the package and done nothing else: two new ones would
    import it for half of the time that these tests take, and what torch does in this one must not
    be forked.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytorch_lightning", "ewnprune", "lightning_modules"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = environment()["PYTHONPATH"]
    try:
        runs = [
            context.Process(target=_execute, args=(source, port, str(rank), *map(str, words)))
            for rank in range(2)
        ]
        for run in runs:
            run.start()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
    for run in runs:
        run.join(timeout=300)
    assert [run.exitcode for run in runs] == [0, 0]


def _execute(source, port, rank, *words):
    # as torchrun has it
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {"WORLD_SIZE": "2", "NODE_RANK": "0", "LOCAL_RANK": rank}
    sys.argv = ["", rank, *words]
    exec(compile(source, "<run together>", "exec"), {"__name__": "__main__"})
