"""The experiments on ImageNet, on a folder of synthetic images and with random weights."""

import json
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from torchvision.models import MobileNet_V2_Weights, ResNet50_Weights, get_weight

import amc_env
from amc_env.pipeline import CONFIGS
from amc_env.pipeline.config import RunConfig
from amc_env.pipeline.main import main
from amc_env.pipeline.networks import network_of, source_of
from benchmarks.images import write_folder

# As little of everything as shows that the path runs.
SMALL = [
    "device=cpu", "model.options.weights=null", "data.options.workers=1", "data.options.hold_mib=0",
    "split.calibration=8", "split.validation=6", "split.selection=4", "env.calibration_batch=4",
    "env.precision=float32", "finetune.precision=float32", "env.evaluation_batch=6",
    "agent.options.warmup_episodes=1", "search.episodes=2", "search.finalists=1",
    "search.compare=[]", "adjust.epochs=1", "adjust.batch=8", "finetune.epochs=1",
    "finetune.batch=6", "finetune.accumulate=2", "finetune.shift=0", "latency=false",
]  # fmt: skip


def composed(*overrides: str) -> RunConfig:
    with initialize_config_dir(str(CONFIGS), version_base=None):
        return RunConfig.of(compose("config", [*overrides]))


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("resnet50", ResNet50_Weights.IMAGENET1K_V1),
        ("mobilenet_v2", MobileNet_V2_Weights.IMAGENET1K_V1),
    ],
)
def test_experiments_have_torchvisions_weights_and_transforms_and_a_mini_split(
    name: str, weights: object
) -> None:
    config = composed(f"experiment=imagenet_{name}", "device=cpu")
    assert config.model.name == name
    assert get_weight(config.data.options["weights"]) is weights
    assert config.data.options["weights"].endswith(config.model.options["weights"])
    split = config.split
    assert split.calibration + split.validation + split.selection == 10_000
    assert config.base.epochs == 0


def test_the_policy_does_not_name_weights_that_its_network_does_not_need(tmp_path: Path) -> None:
    write_folder(tmp_path, {"train": 4, "val": 2})
    given = ["experiment=imagenet_resnet50", f"data.options.path={tmp_path}", "device=cpu"]
    config = composed(*given)
    parts = config.make()
    data = amc_env.data.datasets.load_dataset("folder", config.data.options)
    assert source_of(config, data, parts.task).options == {}


def test_weights_that_cannot_be_downloaded_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = composed("experiment=imagenet_resnet50", "device=cpu")
    # A cache without the file, and a network without the host.
    monkeypatch.setenv("TORCH_HOME", f"{tmp_path}")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    source = amc_env.policy.ModelSource(name="resnet50")
    with pytest.raises(ValueError, match="IMAGENET1K_V1 of resnet50 could not be downloaded"):
        network_of(config, source)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "limit"),
    # MobileNetV2 with the transforms of its weights, ResNet-50 on smaller images.
    [("mobilenet_v2", [], 0.7), ("resnet50", ["data.options.weights=null", "data.options.size=48",
                                              "data.options.resize=56"], 0.5)],
)  # fmt: skip
def test_an_experiment_runs_on_a_folder_of_images(
    name: str, size: list[str], limit: float, tmp_path: Path
) -> None:
    write_folder(tmp_path / "images", {"train": 36, "val": 6}, classes=3, size=(80, 64))
    given = [f"experiment=imagenet_{name}", f"data.options.path={tmp_path}/images"]
    assert main([*given, *SMALL, *size, f"folder={tmp_path}/run"]) == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["is_complete"]
    assert metrics["flops_ratio"] <= limit
    assert {"original", "ddpg_amc, repaired"} <= {*metrics["test_accuracies"]}
    network = amc_env.load(tmp_path / "run")
    assert network(torch.zeros(2, 3, 48, 48)).shape == (2, 1000)
