"""The script is tried in bash itself: what it says for what was typed so far."""

import shutil
import subprocess

import pytest

from ewnprune.cli import main

# as bash calls a completion function: the words, which of them is typed, the word itself
_TRY = """
type() {
  COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
  _shtab_ewnprune "$1" "${!#}"
  echo "${COMPREPLY[@]}"
}
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_commands_options_values_and_files(capsys, tmp_path):
    assert main(["completion", "bash"]) == 0
    (tmp_path / "study-1.yaml").touch()
    lines = ["ewnprune sw", "ewnprune fit --prune.scor", "ewnprune fit --trainer.max_ep"]
    lines += [
        "ewnprune export --heads w",
        "ewnprune reproduce lin",
        "ewnprune compare --config stu",
    ]
    script = "\n".join([capsys.readouterr().out, _TRY, *(f"type {line}" for line in lines)])
    told = subprocess.run(["bash"], input=script, capture_output=True, text=True, cwd=tmp_path)
    assert (told.stdout.splitlines(), told.stderr) == (
        [
            "sweep",
            "--prune.scores",
            "--trainer.max_epochs",
            "whole",
            "lin-sep",
            "study-1.yaml",
        ],
        "",
    )


def test_another_shell_gets_its_own(capsys):
    assert main(["completion", "zsh"]) == 0
    script = capsys.readouterr().out
    assert script.startswith("#compdef ewnprune") and "--prune.scores" in script


def test_a_shell_that_there_is_not(capsys):
    assert main(["completion", "fish"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
