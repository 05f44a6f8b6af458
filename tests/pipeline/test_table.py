import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from amc_env.pipeline.table import read_runs, tabulate


def job(
    folder: Path,
    accuracies: dict[str, float],
    *,
    settings: dict[str, Any] | None = None,
    is_complete: bool = True,
) -> None:
    folder.mkdir(parents=True)
    settings = {"seed": 0, "agent": {"name": "ddpg", "options": {}}} | (settings or {})
    metrics = {
        "agent": settings["agent"]["name"], "seed": settings["seed"], "flops_ratio": 0.5,
        "params_ratio": 0.6, "seconds": 3.2, "kept": "repaired", "is_complete": is_complete,
        "test_accuracies": accuracies,
    }  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(settings)))


def lines(folder: Path) -> list[str]:
    return tabulate(read_runs(folder)).splitlines()


def test_runs_become_rows_and_seeds_a_median_with_its_range(tmp_path: Path) -> None:
    for seed, accuracy in enumerate((0.5, 0.9, 0.7)):
        named = {"original": 1.0, "ddpg, repaired": accuracy, "uniform, repaired": 0.4}
        job(tmp_path / str(seed), named, settings={"seed": seed})
    each, whole = ": median (range)", "100.00% (100.00% to 100.00%)"
    rival = "uniform, repaired"
    assert lines(tmp_path) == [
        "| seed | kept | MACs | parameters | original | repaired | uniform, repaired | seconds |",
        "| --- | --- | --: | --: | --: | --: | --: | --: |",
        "| 0 | repaired | 0.500 | 0.600 | 100.00% | 50.00% | 40.00% | 3 |",
        "| 1 | repaired | 0.500 | 0.600 | 100.00% | 90.00% | 40.00% | 3 |",
        "| 2 | repaired | 0.500 | 0.600 | 100.00% | 70.00% | 40.00% | 3 |",
        "",
        f"| seeds | MACs | parameters | original{each} | repaired{each} | {rival}{each} |",
        "| --: | --: | --: | --: | --: | --: |",
        f"| 3 | 0.500 | 0.600 | {whole} | 70.00% (50.00% to 90.00%) | 40.00% (40.00% to 40.00%) |",
    ]


def test_rewards_and_agents_are_groups_of_their_own(tmp_path: Path) -> None:
    for number, (agent, reward, seed, accuracy) in enumerate(
        (
            ("ddpg", "loss", 0, 0.1), ("ddpg", "loss", 1, 0.2), ("ddpg", "loss", 2, 0.6),
            ("td3", "loss", 0, 0.7), ("td3", "random", 0, 0.9),
        )
    ):  # fmt: skip
        settings = {"seed": seed, "agent": {"name": agent}, "reward": {"name": reward}}
        named = {"original": 1.0, f"{agent}, pruned": accuracy}
        if agent == "td3":
            named["uniform, pruned"] = 0.3
        job(tmp_path / str(number), named, settings=settings)
    groups = lines(tmp_path)[-3:]
    whole, rival = "100.00% (100.00% to 100.00%)", "30.00% (30.00% to 30.00%)"
    # An accuracy that a run does not have is left out instead of being counted as NaN.
    assert groups == [
        f"| ddpg | loss | 3 | 0.500 | 0.600 | {whole} | 20.00% (10.00% to 60.00%) |  |",
        f"| td3 | loss | 1 | 0.500 | 0.600 | {whole} | 70.00% (70.00% to 70.00%) | {rival} |",
        f"| td3 | random | 1 | 0.500 | 0.600 | {whole} | 90.00% (90.00% to 90.00%) | {rival} |",
    ]


def test_a_failed_job_is_named_and_an_interrupted_one_is_in_no_median(tmp_path: Path) -> None:
    job(tmp_path / "a", {"original": 0.9}, settings={"seed": 1})
    job(tmp_path / "b", {"original": 0.1}, settings={"seed": 2}, is_complete=False)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "error.json").write_text(json.dumps({"error": "a | b is wrong"}))
    text = lines(tmp_path)
    assert "| 2 (interrupted) | repaired | 0.500 | 0.600 | 10.00% | 3 |" in text
    assert "| 1 | 0.500 | 0.600 | 90.00% (90.00% to 90.00%) |" in text
    assert text[-1] == "| c | a \\| b is wrong |"


def test_a_job_with_several_budgets_has_a_row_for_each(tmp_path: Path) -> None:
    for seed in (0, 1):
        whole = tmp_path / f"{seed}_seed={seed}"
        for ratio in (0.7, 0.5):
            settings = {"seed": seed, "budget": {"flops": ratio}}
            job(whole / f"budget.flops={ratio}", {"original": 0.9}, settings=settings)
        (whole / "metrics.json").write_text(json.dumps({"budgets": {}, "is_complete": True}))
        (whole / "config.yaml").write_text(f"seed: {seed}\n")
    (whole / "error.json").write_text(json.dumps({"error": "the third budget failed"}))
    text = lines(tmp_path)
    assert text[:6] == [
        "| budget.flops | seed | kept | MACs | parameters | original | seconds |",
        "| --- | --- | --- | --: | --: | --: | --: |",
        "| 0.5 | 0 | repaired | 0.500 | 0.600 | 90.00% | 3 |",
        "| 0.7 | 0 | repaired | 0.500 | 0.600 | 90.00% | 3 |",
        "| 0.5 | 1 | repaired | 0.500 | 0.600 | 90.00% | 3 |",
        "| 0.7 | 1 | repaired | 0.500 | 0.600 | 90.00% | 3 |",
    ]
    assert text[-1] == "| 1_seed=1 | the third budget failed |"
    assert [line[:11] for line in text[9:11]] == ["| 0.5 | 2 |", "| 0.7 | 2 |"]


def test_accuracies_on_original_images_stand_beside_the_others(tmp_path: Path) -> None:
    job(tmp_path / "a", {"original": 0.9, "ddpg, repaired": 0.7})
    path = tmp_path / "a" / "metrics.json"
    marked = {"original": 0.95, "ddpg, repaired": 0.75}
    metrics = json.loads(path.read_text()) | {"test_accuracies_on_originals": marked}
    path.write_text(json.dumps(metrics))
    text = lines(tmp_path)
    assert "| original | repaired | original, originals | repaired, originals |" in text[0]
    assert "| 90.00% | 70.00% | 95.00% | 75.00% |" in text[2]


def test_a_sweep_of_failures_is_a_table_too(tmp_path: Path) -> None:
    (tmp_path / "error.json").write_text(json.dumps({"error": "no"}))
    assert lines(tmp_path) == ["| failed | why |", "| --- | --- |", "| . | no |"]


def test_a_folder_without_runs_or_with_damaged_ones_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no metrics.json below"):
        read_runs(tmp_path)
    (tmp_path / "metrics.json").write_text("{")
    with pytest.raises(ValueError, match=r"there is no config.yaml beside"):
        read_runs(tmp_path)
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    with pytest.raises(ValueError, match=r"metrics.json is damaged"):
        read_runs(tmp_path)
