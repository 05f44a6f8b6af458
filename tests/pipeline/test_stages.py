from pathlib import Path

import pytest

from pipeline import CONFIGS, stages
from pipeline.config import RunConfig
from pipeline.overrides import Settings


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("env.ignore=[nowhere]", "ignore names no module 'nowhere'"),
        ("budget.flops=0.01", "the budget for flops is 0.01, but with every group at its least"),
        ("split.calibration=900", "900 calibration and 5000 validation samples cannot be drawn"),
        ("model.name=resnet18", r"does not run on an example_input of shape \(2, 1, 8, 8\)"),
        ("model.name={file}:five", "the network gives scores of 5 classes, but there is a label 9"),
    ],
)
def test_what_cannot_be_pruned_is_refused_before_it_is_trained(
    override: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "own.py"
    file.write_text(
        "from amc_env.models import build_model\n"
        "def five():\n    return build_model('digits_cnn', num_classes=5, seed=0)\n"
    )
    # So many epochs that this test would not end if they were begun.
    overrides = ["base.epochs=1000000", override.format(file=file)]
    config = RunConfig.of(Settings(CONFIGS).compose(overrides))
    run = stages.start(config, tmp_path / "run")
    with pytest.raises(ValueError, match=message):
        stages.base_model(run)
    assert not (tmp_path / "run").exists()
