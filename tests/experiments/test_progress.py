"""What `ewnprune reproduce` says where nobody looks at a terminal, and of bad options."""

import sys

import pytest
from tqdm import tqdm

from ewnprune.cli import main
from ewnprune.experiments import command, verdict


def test_no_bar_is_drawn_into_a_file(tmp_path, capsys, monkeypatch):
    def fake(out, seeds):
        with tqdm(total=100, desc="xor", unit="step", leave=False, mininterval=0) as bar:
            for _ in range(100):
                bar.update()
        print("a warning", file=sys.stderr)
        return [verdict.near("X2", "steps", 3.0, 3, 0)]

    monkeypatch.setitem(command._ROOMS, "xor", fake)
    monkeypatch.setattr(command, "_SECONDS", 0)
    assert command.reproduce("xor", str(tmp_path), seeds=2) == 0
    out, err = capsys.readouterr()
    assert "\r" not in out + err
    assert err == "a warning\n"
    lines = [line for line in out.splitlines() if line.startswith("xor: ")]
    assert "50/100 [00:00<00:00" in out and len(lines) > 50
    assert sys.stderr.write("") == 0, "the stream is back"

    monkeypatch.setattr(command, "_SECONDS", 60)
    assert command.reproduce("xor", str(tmp_path), seeds=3) == 0
    out, err = capsys.readouterr()
    assert "50/100" not in out and err == "a warning\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("xor --seeds=0", "seeds=0: expected a number >= 1"),
        ("mnist --device nonsense", "device='nonsense': expected cpu"),
        ("mnist --device mps", "device='mps': expected cpu"),
        ("mnist --methods [SGD]", "--methods"),
        ("nothing", "expected one of"),
    ],
)
def test_options_that_do_not_fit_have_status_2(words, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce", *words.split()]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1, err
    assert not list(tmp_path.iterdir())
