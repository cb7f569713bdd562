"""What a command line says of what it does not know, and how it ends."""

import re
import sys
from functools import partial
from pathlib import Path

import pytest

from ewnprune.callback.names import with_class_names
from ewnprune.cli import main
from ewnprune.configs import shipped_config, with_config_paths
from ewnprune.errors import exit_status

pytestmark = pytest.mark.usefixtures("elsewhere")


def _fails(capsys, *words, status):
    assert main([*words]) == status, capsys.readouterr()
    captured = capsys.readouterr()
    assert re.fullmatch(r"ewnprune: error: [^\n]+\n", captured.err.removeprefix("Seed set to 0\n"))
    assert "Traceback" not in captured.err + captured.out
    return captured.err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("compar", "there is no command 'compar': did you mean compare? the commands are fit,"),
        ("--verison", "did you mean --version?"),
        ("--ckpt_path x", "--ckpt_path comes before a command: the commands are fit,"),
        ("xyz", "there is no command 'xyz': the commands are fit, sweep, validate, test, predict"),
        ("fit --max_epochs=2", "no option --max_epochs: did you mean --trainer.max_epochs?"),
        ("fit --max-epochs 2", "no option --max-epochs: did you mean --trainer.max_epochs?"),
        ("fit --trainer.max_epoch=2", "did you mean --trainer.max_epochs?"),
        ("fit --prune.paramtrization=EWN", "did you mean --prune.parametrization?"),
        ("sweep --splt=test", "there is no option --splt: did you mean --split?"),
        ("compare --method=none", "there is no option --method: did you mean --methods?"),
        ("export x --max-dorp=1", "there is no option --max_dorp: did you mean --max_drop?"),
        ("reproduce xor --seed=1", "there is no option --seed: did you mean --seeds?"),
        ("report study --folder=x", "there is no option --folder"),
        ("fit extra", "unexpected 'extra'"),
        ("sweep", "the option --ckpt_path is required"),
        ("fit --ckpt_path", "--ckpt_path: expected one argument"),
        ("fit --config", "--config: expected one argument"),
        ("fit --prune.parametrization=EVN", "did you mean EWN? choose among DGating, EWN"),
        ("fit --prune.parametrization ewnprune.EVN", "ewnprune has no 'EVN': did you mean EWN?"),
        (
            "fit --prune.parametrization.epss=1",
            "no option 'epss' (EWN has dim, batchnorm, inputs)",
        ),
        ("fit --model.network=CNM", "--model.network: there is no class 'CNM': did you mean CNN?"),
        ("fit --model.network.hiden=[3]", "MLP has no option 'hiden'"),
        ("fit --data.batchsize=3", "did you mean batch_size?"),
        ("fit --data.batch_size=x", "--data.batch_size: expected int; got x"),
        ("fit --data.batch_size=0", "batch_size"),
        ("fit --model=mine.Model", "there is no module 'mine': expected a file mine.py in the"),
        (
            "fit --model=torch.nn.Linear",
            "--model: Import path does not correspond to a subclass of",
        ),
        ("fit --prune.scores=[nrom]", "unknown score 'nrom': choose among norm,"),
        ("fit --prune.scores=norm", '--prune.scores: expected a list, such as "[a, b]"; got norm'),
        ("fit --prune.scope=all", "--prune.scope: expected one of 'layer', 'global', 'norm"),
        ("fit --prune.sparsities=[0,1.2]", "1.2"),
        ("fit --trainer.max_epochs=many", "--trainer.max_epochs: expected int; got many"),
        ("fit --trainer.accelerator=gpuu", "invalid accelerator name"),
        ("fit --trainer.max_epochs=-3", "max_epochs"),
        ("export x --sparsity=0.5 --max-drop=1", "expected either --sparsity"),
        ("export x --sparsity=0.5 --macs=0.5", "expected either --sparsity"),
        ("export x --macs=-1", "budget macs=-1.0: expected a fraction of the dense network"),
        ("export x --sparsity=half", "--sparsity: expected float; got half"),
    ],
)
def test_what_there_is_not_is_a_usage_error(words, expected, capsys):
    assert expected in _fails(capsys, *words.split(), status=2)
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("strength=abc", "--trainer.callbacks.strength: expected float; got abc"),
        ("strength=-1", "strength=-1.0: expected a number >= 0"),
        ("until=0.5", "--trainer.callbacks: GroupLasso needs a value for strength"),
        (
            "strenght=1",
            "--trainer.callbacks: GroupLasso has no option 'strenght' (GroupLasso has strength, "
            "layers, exclude, until): did you mean strength?",
        ),
    ],
)
@pytest.mark.parametrize("written", ["typed", "in a file"])
def test_a_wrong_option_of_a_callback_is_said_and_nothing_else(options, expected, written, capsys):
    name, value = options.split("=")
    words = ["--trainer.callbacks+=ewnprune.GroupLasso", f"--trainer.callbacks.{options}"]
    if written == "in a file":
        entry = f"{{class_path: ewnprune.GroupLasso, init_args: {{{name}: {value}}}}}"
        Path("mine.yaml").write_text(f"trainer:\n  callbacks:\n  - {entry}\n")
        words = ["--config=mine.yaml"]
    said = _fails(capsys, "fit", *words, status=2)
    assert said.splitlines()[-1] == f"ewnprune: error: {expected}"


@pytest.mark.parametrize(
    "words",
    ["fit --config=missing.yaml", "fit --ckpt_path=missing.ckpt", "export missing --sparsity=0.5"],
)
def test_other_errors_have_another_status(words, capsys):
    assert "missing" in _fails(capsys, *words.split(), status=1)
    assert not list(Path().iterdir())


def test_a_misspelt_config_suggests_the_shipped_one(capsys):
    err = _fails(capsys, "fit", "-c", "mnist_mlp_sw.yaml", status=1)
    assert "there is no such file: did you mean mnist_mlp_swn.yaml?" in err


def test_a_key_of_a_config_is_named(capsys):
    Path("a.yaml").write_text("prune:\n  sparsitys: [0.5]\n")
    assert "sparsitys" in _fails(capsys, "fit", "--config", "a.yaml", status=2)


def _raise(error):
    raise error


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a batch of the loader is a list of 3: expected (inputs, targets)"),
        FileNotFoundError(2, "No such file or directory", "/tmp/My Project - v2/data list ;.csv"),
    ],
)
def test_what_is_no_option_is_told_as_it_is(error, capsys):
    assert exit_status(partial(_raise, error)) == 1
    assert capsys.readouterr().err == f"ewnprune: error: {error}\n"


@pytest.mark.parametrize("form", ["--config {}", "--config={}", "-c {}", "-c{}", "-c={}"])
def test_a_shipped_config_is_found_by_name_however_it_is_given(form, capsys):
    name = "mnist_mlp_swn.yaml"
    found = with_config_paths(["fit", *form.format(name).split(), "--seed_everything=3"])
    assert found == ["fit", *form.format(shipped_config(name)).split(), "--seed_everything=3"]
    option = form.removesuffix("{}").rstrip(" =")
    err = _fails(capsys, "fit", *form.format("mnist_mlp_sw.yaml").split(), status=1)
    assert f"error: {option} mnist_mlp_sw.yaml: there is no such file: did you mean {name}?" in err


@pytest.mark.parametrize("command", [[], ["fit"]])
def test_a_recipe_in_a_config_of_several_commands_is_refused(command, capsys):
    Path("whole.yaml").write_text("fit: {prune: {recipe: prunable}}")
    err = _fails(capsys, "--config=whole.yaml", *command, status=2)
    assert "expected the options of fit in a file of their own" in err


_DRY = ["--trainer.fast_dev_run=1", "--trainer.accelerator=cpu", "--prune.sparsities=[0,0.5]"]


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("--prune.parametrization=swn", "layers under SWN"),
        ("--prune.parametrization ewn", "layers under EWN"),
        ("--model.network=cnn", "conv1"),
        ("--model.init_args.network.class_path=cnn", "conv1"),
        ("--model=classifier --data=mnistdatamodule", "layers under EWN"),
        ("--prune.scores=[Norm,NORM_WITH_BIAS]", "norm_with_bias"),
        ("--trainer.callbacks=[earlystopping] --trainer.callbacks.monitor=val/loss", "EWN"),
    ],
)
def test_classes_and_scores_are_known_in_any_case(words, shown, capsys):
    assert main(["fit", *words.split(), *_DRY]) == 0, capsys.readouterr().err
    assert shown in capsys.readouterr().out


def test_a_value_that_is_spelled_as_a_class_stays():
    message = 'Parser key "prune.parametrization":\n  Expected a dot import path string: swn'
    words = [
        "fit",
        "--prune.parametrization",
        "swn",
        "--trainer.default_root_dir=swn",
        "--x",
        "swn",
    ]
    assert with_class_names(words, message) == [*words[:2], "SWN", *words[3:]]


def test_help_fits_a_terminal(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    for command in ("fit", "sweep", "validate", "test", "predict", "export", "compare", "report"):
        assert f"ewnprune {command} " in out


@pytest.mark.parametrize("command", ["fit", "sweep", "export", "report"])
def test_help_of_a_command_fits_a_terminal(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: ewnprune {command} [")
    long = [line for line in out.splitlines() if len(line) > 80]
    # names of options, and titles of groups, which argparse does not wrap
    assert all(re.match(r" *--|\S.*:$", line) for line in long), long


def test_a_module_of_the_current_folder_can_be_named(capsys):
    Path("own_classes.py").write_text(_OWN)
    small = ["--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--prune.sparsities=[0,0.5]"]
    words = ["--model=own_classes.Model", "--data=own_classes.Data", *small]
    assert main(["fit", *words]) == 0, capsys.readouterr().err
    del sys.modules["own_classes"]
    assert main(["export", "runs/version_0", "--sparsity=0.5", "--score=NORM"]) == 0
    assert Path("runs/version_0/export-state_dict-0.5/model.pt").is_file()
    del sys.modules["own_classes"]
    assert str(Path.cwd()) not in sys.path
    capsys.readouterr()
    Path("imports_more.py").write_text("import not_there_either\n")
    err = _fails(capsys, "fit", "--model=imports_more.Model", status=2)
    assert "there is no module 'not_there_either', which it imports" in err


_OWN = """
from toys import data, fits

class Model(fits.Net):
    def __init__(self):
        super().__init__()

class Data(data.Points):
    pass
"""
