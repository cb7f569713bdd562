"""How far a study is: a bar at a terminal, a line per run that has ended in a file."""

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from tqdm import tqdm

from ewnprune.study.plan import Run
from ewnprune.study.run import FINISHED

_BAR = "{percentage:3.0f} %|{bar}| {n:.1f}/{total} runs, {elapsed} gone, {remaining} left"


def watch(
    events: Iterable[tuple[Path, int] | None], runs: Sequence[Run], finished: Callable[[], None]
) -> list[Path]:
    """Wait for runs to end, and show how far they are.

    Args:
        events: a folder and its run's exit status as each ends; None after each look.
        runs: those that are to do.
        finished: called when one has.

    Returns:
        The folders of those that failed.
    """
    failed, ended = [], set[Path]()
    # the bar goes to the error stream; in a file either would be filled with its drawings
    drawn = sys.stdout.isatty() and sys.stderr.isatty()
    begun = time.monotonic()
    with tqdm(
        total=len(runs), bar_format=_BAR, smoothing=0, mininterval=1, disable=not drawn
    ) as bar:
        try:
            for event in events:
                if event is not None:
                    path, status = event
                    ended.add(path)
                    if status or not (path / FINISHED).is_file():
                        failed.append(path)
                    else:
                        finished()
                done = sum(1.0 if r.folder in ended else 0.95 * _progress(r.folder) for r in runs)
                if drawn:
                    bar.update(done - bar.n)
                elif event is not None:
                    how = "failed" if path in failed else "finished"
                    gone = time.monotonic() - begun
                    print(_line(path.name, how, len(ended), len(runs), done, gone), flush=True)
        except KeyboardInterrupt:
            bar.write("ewnprune: stopped; the same command goes on from here")
            raise
    return failed


def _line(name: str, how: str, ended: int, runs: int, done: float, seconds: float) -> str:
    """What is said of a run that has ended.

    >>> _line("ewn-seed=0", "finished", 1, 4, 1.5, 30)
    'run 1 of 4: ewn-seed=0 finished, 30 s, about 50 s left'
    >>> _line("ewn-seed=0", "failed", 4, 4, 4, 80)
    'run 4 of 4: ewn-seed=0 failed, 80 s'
    """
    left = f", about {seconds * (runs - done) / done:.0f} s left" if ended < runs else ""
    return f"run {ended} of {runs}: {name} {how}, {seconds:.0f} s{left}"


def _progress(folder: Path) -> float:
    path = folder / "progress"
    return float(path.read_text(encoding="utf-8")) if path.is_file() else 0.0
