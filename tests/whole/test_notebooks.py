"""The notebooks of the documentation run as they are; what they show was left by such a run."""

import json
from pathlib import Path

import pytest

from ewnprune.study import command, run

# what the comparison is made of is tried on less
LESS = {'"seeds": "0-1"': '"seeds": "0"', '"max_epochs": 4': '"max_epochs": 1'}
LESS |= {'"limit_train_batches": 100': '"limit_train_batches": 40'}
LESS |= {"[0, 0.5, 0.8, 0.9, 0.95]": "[0, 0.5]"}
FOLDER = Path(__file__).parents[2] / "docs/notebooks"
NOTEBOOKS = [
    "own_module.ipynb",
    pytest.param("compare_and_export.ipynb", marks=pytest.mark.slow),
]


@pytest.fixture
def here(tmp_path, monkeypatch, mnist_dir):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EWNPRUNE_DATA_DIR", str(mnist_dir))
    # a study's processes would each import everything anew
    monkeypatch.setattr(
        command, "run_locally", lambda folders, workers: ((f, run.main(f)) for f in folders)
    )
    return tmp_path


def _code(name):
    cells = json.loads((FOLDER / name).read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs(name, here):
    names = {"__name__": "__main__"}
    for cell in _code(name):
        source = "".join(line for line in cell["source"] if not line.startswith("%"))
        if "study = {" in source:
            assert all(more in source for more in LESS)
            for more, less in LESS.items():
                source = source.replace(more, less)
        exec(source, names)
    if name == "own_module.ipynb":
        assert names["small"].body[1].out_features == 26  # a tenth of 256, rounded
        assert (
            names["accuracy"](names["small"])
            == names["prunable"].where(sparsity=0.9).points[0].accuracy
        )
        assert (here / "digits.pt").is_file()
    else:
        before, after = names["card"]["parameters"].values()
        assert sum(weight.numel() for weight in names["weights"].values()) == after < before


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_it_was_run_from_top_to_bottom_and_its_pictures_are_told(file):
    cells = _code(file.name)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    kinds = {output["output_type"] for cell in cells for output in cell["outputs"]}
    assert "error" not in kinds and "stream" in kinds
    shown = [
        cell for cell in cells if any("image/png" in o.get("data", {}) for o in cell["outputs"])
    ]
    assert shown and all(cell["metadata"]["alt"] for cell in shown)
