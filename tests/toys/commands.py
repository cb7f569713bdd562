"""Commands on the command line, in this process."""

from ewnprune.cli import main

SMALL = [
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.accelerator=cpu",
]


def fails(capsys, *words, among=(1, 2)):
    assert main([*words]) in among
    captured = capsys.readouterr()
    assert captured.err.startswith("ewnprune: error: ")
    assert captured.err.count("\n") == 1, captured.err
    assert "Traceback" not in captured.err + captured.out
    return captured.err
