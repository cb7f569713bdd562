from pathlib import Path

import pytest

from ewnprune.cli import main

SMALL = [
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.accelerator=cpu",
    "--trainer.max_epochs=1",
]


@pytest.fixture(scope="session")
def run(tmp_path_factory, mnist_dir):
    """A short run of the main job with fewer neurons."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EWNPRUNE_DATA_DIR", str(mnist_dir))
        patch.chdir(tmp_path_factory.mktemp("run"))
        words = ["fit", *SMALL, "--trainer.limit_train_batches=150", "--model.network.hidden=[40]"]
        words += ["--prune.scores=[norm,norm_product]", "--prune.sparsities=[0,0.2,0.4,0.5,0.9]"]
        assert main(words) == 0
        return Path.cwd() / "runs" / "version_0"
