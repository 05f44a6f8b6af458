import json
from pathlib import Path

import pytest

from pipeline.table import read_metrics, tabulate


def test_runs_become_rows_and_medians(tmp_path: Path) -> None:
    for seed, accuracy in enumerate((0.5, 0.7, 0.9)):
        (tmp_path / str(seed)).mkdir()
        metrics = {
            "model": "m", "reward_name": "loss", "criterion": "l2", "seed": seed,
            "flops_ratio": 0.5, "seconds": 3.2,
            "test_accuracies": {"original": 1.0, "ddpg, pruned": accuracy},
        }  # fmt: skip
        (tmp_path / str(seed) / "metrics.json").write_text(json.dumps(metrics))
    text = tabulate(read_metrics(tmp_path)).splitlines()
    assert text[2] == "| m | loss | l2 | 0 | 0.500 | 100.00% | 50.00% | 3 |"
    assert text[-1] == "| median | | | | | 100.00% | 70.00% | |"


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no metrics.json below"):
        read_metrics(tmp_path)
