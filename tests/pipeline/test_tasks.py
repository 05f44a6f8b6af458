"""Runs of train_agent.py on tasks other than classification."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import amc_env
from amc_env import Policy
from amc_env.agents import Episode, SearchResult
from amc_env.evaluation import Evaluator
from amc_env.pipeline import CONFIGS, stages
from amc_env.pipeline.command import Job
from amc_env.pipeline.config import RunConfig
from amc_env.pipeline.main import run_job
from amc_env.pipeline.overrides import Settings
from amc_env.pipeline.run import Network, choose
from amc_env.pipeline.table import RunRecord, tabulate
from amc_env.report.page import write_report
from amc_env.tasks import Segmentation
from benchmarks.tasks.networks import unet
from benchmarks.tasks.shapes import segmentation

SHAPES = ["data._target_=benchmarks.tasks.shapes.segmentation", "data.options.train=120",
          "data.options.test=30", "data.options.size=16", "task=segmentation",
          "task.options.output=out"]  # fmt: skip
UNET = ["model._target_=benchmarks.tasks.networks.unet", "model.options.width=4"]
SHORT = ["agent=random", "search.episodes=2", "search.compare=[uniform]", "search.finalists=1",
         "base.epochs=2", "base.precision=float32", "finetune.epochs=1",
         "finetune.precision=float32", "env.precision=float32", "adjust.epochs=1",
         "split.calibration=30"]  # fmt: skip


@pytest.mark.slow
def test_a_segmenter_is_trained_pruned_and_read_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    settings = Settings(CONFIGS).compose([*SHAPES, *UNET, *SHORT])
    assert run_job(Job(settings=settings, folder=folder, overrides=(), is_swept=False)) == 0
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["metric"] == {"name": "mean IoU", "is_share": True}
    policy = Policy.load(folder / "policy.json")
    assert policy.metric == "mean IoU"
    loaded = amc_env.load(folder, unet(4))
    data = segmentation(train=120, test=30, size=16)
    judge = Evaluator(data.test, precision="float32", task=Segmentation(output="out"))
    assert judge.evaluate(loaded) == metrics[f"{metrics['kept']}_accuracy"] == policy.accuracy
    told = capsys.readouterr().out
    assert "mean IoU on test data" in told
    assert "accuracy" not in told
    write_report([folder], tmp_path / "page.html")
    assert "mean IoU on the test data" in (tmp_path / "page.html").read_text()


def refused(tmp_path: Path, *overrides: str) -> str:
    config = RunConfig.of(Settings(CONFIGS).compose(overrides))
    run = stages.start(config, tmp_path / "run")
    with pytest.raises(ValueError, match=r".") as told:
        stages.base_model(run)
    assert not (tmp_path / "run").exists()
    return str(told.value)


def test_a_model_of_class_scores_is_refused_for_other_tasks(tmp_path: Path) -> None:
    told = refused(tmp_path, *SHAPES, "model=digits_cnn")
    assert told.startswith("the model digits_cnn gives class scores, but the task segmentation has")


def test_a_criterion_of_classes_is_refused_before_the_training(tmp_path: Path) -> None:
    told = refused(tmp_path, *SHAPES, *UNET, "criterion=class_mi", "split.calibration=30")
    assert "criterion 'class_mi' reads the classes" in told


def test_labels_of_another_task_are_refused_before_the_training(tmp_path: Path) -> None:
    own = ("task=classification", "task.options.output=out", "split.calibration=30")
    told = refused(tmp_path, *SHAPES, *UNET, *own)
    assert "give one whole number for each of" in told


def test_a_reward_without_a_meaning_is_refused_with_the_settings() -> None:
    config = RunConfig.of(
        Settings(CONFIGS).compose(["task=regression", "reward=neg_error_log_flops"])
    )
    with pytest.raises(ValueError, match="needs a metric from 0 to 1"):
        config.make()


def network(stage: str, held_out: float | None) -> Network:
    episode = Episode(
        number=1, reward=0.0, accuracy=-3.0, flops_ratio=0.5, params_ratio=0.5, counts={},
        sparsities=(), seconds={}, samples=1, reward_parts={}, at_seconds=0.0,
    )  # fmt: skip
    policy = Policy(model="Net", criterion="l2", groups=(), inputs=((1, 1),))
    result = SearchResult(
        policy=policy, compact=torch.nn.Identity(), best=episode, episodes=(episode,),
        evaluations=1.0, seconds=1.0, is_complete=True,
    )  # fmt: skip
    return Network(agent="random", stage=stage, result=result, held_out_accuracy=held_out)  # type: ignore[arg-type]


def test_of_two_networks_the_greater_metric_is_kept_below_zero_too() -> None:
    repaired, tuned = network("repaired", -2.0), network("finetuned", -3.0)
    assert choose([repaired, tuned]) is repaired
    assert choose([repaired, replace(tuned, held_out_accuracy=-1.0)]).stage == "finetuned"


def test_a_table_shows_a_metric_that_is_no_share_as_a_number() -> None:
    metrics = {
        "metric": {"name": "R^2", "is_share": False}, "agent": "ddpg", "kept": "repaired",
        "test_accuracies": {"original": 0.5, "ddpg, repaired": -0.25}, "is_complete": True,
        "seed": 0, "flops_ratio": 0.5, "params_ratio": 0.5, "seconds": 3.0,
    }  # fmt: skip
    text = tabulate([RunRecord(name="run", settings={}, metrics=metrics)])
    assert "| 0.5000 | -0.2500 |" in text
    assert "-0.2500 (-0.2500 to -0.2500)" in text
