"""A study refuses what cannot work before it writes anything, and says how far it is in lines."""

import shlex

import pytest

from ewnprune.cli import main
from ewnprune.curve.curve import Curve
from ewnprune.curve.files import write_curve
from ewnprune.curve.points import CurvePoint
from ewnprune.errors import UsageError
from ewnprune.study import command, options
from ewnprune.study.methods import NEURON_SCORES, find_methods, parse_methods, parse_seeds
from ewnprune.study.plan import Run
from ewnprune.study.progress import watch
from ewnprune.study.run import FINISHED


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--workers=0", "workers=0: expected at least 1"),
        ("--methods=none,pruned", "unknown method 'pruned'"),
        ("--methods=none,none", "expected each method once"),
        ("--seeds=0-x", "expected numbers >= 0"),
        ("--reference=swn --methods=none", "expected one of the study's methods"),
        ("--address=auto", "expected --engine ray"),
        ("--engine=dask", "expected one of"),
        ("--fit.trainer.max_epoch=1", "--trainer.max_epoch: did you mean --trainer.max_epochs?"),
        ("--fit.trainr.max_epochs=1", "ewnprune fit has no option --trainr"),
        ("--fit.prune.sparsity=[0.5]", "--prune.sparsity: did you mean --prune.sparsities?"),
        ("--fit.trainer.max_epochs=some", "--trainer.max_epochs: expected int; got some"),
        ("--vary '{trainer.max_epoch: [1, 2]}'", "did you mean --trainer.max_epochs?"),
        ("--fit.prune.scores=[norm]", "fit: prune.scores: a study ranks by the scores of each"),
        ("--fit.prune.scope=sensitivity", "scope='sensitivity' goes by data"),
        ("--methods=mine --own '{mine: {trains: none, scores: [taylor]}}'", "score 'taylor' goes"),
        ("--methods=mine --own '{mine: {trains: nonne}}'", "no method 'nonne': did you mean none?"),
        ("--methods=none,dense --fit.prune.level_of=macs", "dense has networks without a fraction"),
        (
            "--methods=dense --vary '{prune.sparsities: [[0], [0, 0.5]]}'",
            "prune.sparsities=[0, 0.5]: the run for part 0.5 of a method is the point of that",
        ),
        ("--fit.prune.sparsities='[0, 1.5]'", "sparsity 1.5 is outside [0, 1)"),
        ("--fit.prune.finetune='{epochs: 0, sparsity: 0.5}'", "epochs=0"),
        ("--methods=mine --own '{mine: {trains: none, scores: [nrm]}}'", "unknown score 'nrm'"),
        (
            "--methods=swn,mine --own '{mine: {trains: none, scores: [no.such]}}'",
            "score 'no.such' cannot be imported",
        ),
        (
            "--methods=magnitude --seeds=0 --fit.prune.realize=remove",
            "score 'magnitude' ranks single weights",
        ),
        (
            "--methods=magnitude --seeds=0 --fit.prune.inputs=true",
            "prune.inputs: true takes out whole units",
        ),
        ("--vary '{trainer.max_epochs: []}'", "--vary trainer.max_epochs: []: expected one value"),
        ("--fit.data=null", "the option --data is required"),
        ("--fit.trainer.devices=2", "trainer.devices=2: a run of a study is one process on one"),
        ("--fit.trainer.fast_dev_run=true", "trainer.fast_dev_run=true leaves no checkpoint"),
        ("--fit.trainer.barebones=true", "trainer.barebones=true leaves no checkpoint"),
        (
            "--fit.trainer.limit_val_batches=0 --fit.trainer.limit_test_batches=0",
            "leave nothing that a study could measure on",
        ),
        (
            "--vary '{trainer.devices: [1, \"0,1\"]}'",
            "trainer.devices=0,1: a run of a study is one",
        ),
        (
            "--methods=mine --own '{mine: {fit: {model: {class_path: Classifier, "
            "init_args: {netwrk: null}}}}}'",
            "Classifier has no option 'netwrk'",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    words, said, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main(["compare", *shlex.split(words)]) == 2
    out, err = capsys.readouterr()
    assert said in err and err.count("\n") == 1, err
    assert not out and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "fields", [{"candidates": {"a": None}}, {"candidates": ["a"]}, {"parts": 3}, {"fit": "x"}]
)
def test_methods_without_options_by_name_are_refused(fields):
    with pytest.raises(UsageError, match="own method 'mine': expected fit as options by name"):
        parse_methods({"mine": fields})


@pytest.mark.parametrize(
    ("field", "options"),
    [("fit", {"trainer.max_epochs": 9}), ("candidates", {1: {}}), ("parts", {1: {}})],
)
def test_a_method_that_takes_the_runs_of_another_trains_nothing_else(field, options):
    with pytest.raises(UsageError, match=rf"takes the runs of 'ewn', and its {field} would train"):
        parse_methods({"mine": {"trains": "ewn", field: options}})
    parse_methods({"mine": {"trains": "ewn", field: {}}, "other": {"trains": "", field: options}})


@pytest.mark.parametrize("wrong", [None, 1.5, [["none"]]])
def test_names_and_seeds_of_another_type_are_refused(wrong):
    """YAML has such."""
    with pytest.raises(UsageError, match=r"--methods .*: expected names"):
        find_methods(wrong, {})
    with pytest.raises(UsageError, match=r"--seeds .*: expected numbers"):
        parse_seeds(wrong)


def test_errors_of_methods_and_seeds_are_usage_errors_and_value_errors():
    for wrong in (lambda: find_methods("x", {}), lambda: parse_seeds("x")):
        with pytest.raises(UsageError):
            wrong()
        with pytest.raises(ValueError):
            wrong()


def test_every_own_method_is_tried_and_of_the_known_ones_one(tmp_path, monkeypatch):
    tried = []
    monkeypatch.setattr(options, "_as_fit_reads", lambda config: tried.append(config) or {"a": 1})
    runs = [
        Run(tmp_path, name, seed, None, {"a": f"{name}{seed}"})
        for seed in (0, 1)
        for name in ("none", "ewn", "mine[1]", "mine[2]", "none @ epochs=5")
    ]
    options.check_options(runs, ["mine"])
    assert tried == [
        {},
        {"a": "none0"},
        {"a": "mine[1]0"},
        {"a": "mine[2]0"},
        {"a": "none @ epochs=50"},
    ]
    tried.clear()
    options.check_options([], ["mine"])
    assert not tried


def test_in_a_file_there_is_a_line_for_each_run_that_ends(tmp_path, capsys):
    runs = [Run(tmp_path / name, name, 0) for name in ("a", "b", "c")]
    for run in runs:
        run.folder.mkdir()
    (runs[0].folder / FINISHED).touch()
    (runs[2].folder / FINISHED).touch()
    events = [None, (runs[0].folder, 0), None, (runs[1].folder, 1), (runs[2].folder, 0), None]
    assert watch(events, runs, lambda: None) == [runs[1].folder]
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "run 1 of 3: a finished, 0 s, about 0 s left",
        "run 2 of 3: b failed, 0 s, about 0 s left",
        "run 3 of 3: c finished, 0 s",
    ]
    assert not err


def test_at_a_terminal_there_is_a_bar(tmp_path, capsys, monkeypatch):
    run = Run(tmp_path, "a", 0)
    (tmp_path / FINISHED).touch()
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert watch([(tmp_path, 0)], [run], lambda: None) == []
    out, err = capsys.readouterr()
    assert "1.0/1 runs" in err and not out


def test_finished_runs_ask_for_no_check(tmp_path, monkeypatch):
    """A study that is done is shown again at once."""
    asked = []
    monkeypatch.setattr(command, "check_options", lambda runs, own: asked.append(list(runs)))
    monkeypatch.setattr(command, "watch", lambda events, runs, finished: [])
    monkeypatch.setattr(command, "run_locally", lambda folders, workers: (each for each in ()))
    command.compare("none", "0", folder=tmp_path / "s")
    (path,) = (tmp_path / "s" / "runs").iterdir()
    points = [CurvePoint(score=score, sparsity=0.0) for score in NEURON_SCORES]
    write_curve(Curve(tuple(points)), path / FINISHED)
    monkeypatch.setattr(command, "collect", lambda folder, methods: command.Curve())
    command.compare("none", "0", folder=tmp_path / "s")
    command.compare("random", "0", folder=tmp_path / "s")  # by which they are not measured yet
    assert [[run.folder for run in runs] for runs in asked] == [[path], [], [path]]


def test_runs_have_ended_before_another_study_may_begin(tmp_path, monkeypatch):
    """Ctrl-C may come while the page is drawn."""
    ended = []

    def train(folders, workers):
        try:
            (folders[0] / FINISHED).touch()
            yield folders[0], 0
        finally:  # a run saves its checkpoint
            with (
                pytest.raises(RuntimeError, match="another ewnprune compare"),
                command._alone(tmp_path),
            ):
                pass
            ended.append(folders)

    def interrupted(folder, methods):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "check_options", lambda runs, own: None)
    monkeypatch.setattr(command, "run_locally", train)
    monkeypatch.setattr(command, "_write_so_far", interrupted)
    with pytest.raises(KeyboardInterrupt):
        command.compare("none", "0", folder=tmp_path)
    assert ended
    with command._alone(tmp_path):
        pass


def test_what_a_module_prints_when_it_is_imported_is_no_option(tmp_path, monkeypatch, capsys):
    source = "from lightning_modules import Classifier as Mine\nprint('Loading: the zoo ...')\n"
    (tmp_path / "prints_at_import.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    read = options._as_fit_reads({"model": "prints_at_import.Mine", "trainer": {"max_epochs": "7"}})
    assert read["trainer"]["max_epochs"] == 7
    assert read["model"]["class_path"] == "prints_at_import.Mine"
    assert read["trainer"]["callbacks"] is None
    assert not capsys.readouterr().out
