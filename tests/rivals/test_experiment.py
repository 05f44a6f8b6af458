"""What is compared: allocations, draws of calibration images and networks that need none."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rivals.small import chain, graph_of, images

from amc_env import Split
from amc_env.policy import make_policy
from benchmarks.rivals.experiment import UNIFORM, Run, Settings, compare
from benchmarks.rivals.methods import METHODS, checked_methods
from benchmarks.subjects import Subject

SETTINGS = Settings(
    methods=checked_methods(["none", "norms", "sequential"]), seeds=(0, 1), calibration=20
)


@pytest.fixture(scope="module")
def subject() -> Subject:
    test = Split(inputs=images(60)[40:], labels=torch.arange(20) % 4)
    return Subject(
        name="chain",
        model=chain(),
        train=Split(inputs=images(40), labels=torch.arange(40) % 4),
        test=test,
        is_original=torch.ones(20, dtype=torch.bool),
    )


@pytest.fixture(scope="module")
def runs(subject: Subject) -> list[Run]:
    return list(compare(subject, SETTINGS))


def chosen(runs: list[Run], allocation: str, method: str) -> list[Run]:
    label = METHODS[method].label
    return [run for run in runs if (run.allocation, run.method) == (allocation, label)]


def test_all_draws_get_all_repairs_within_the_budget(runs: list[Run]) -> None:
    assert len(runs) == 2 * (2 * 3 + 2 * 2)
    assert all(run.macs_ratio <= SETTINGS.budget for run in runs)
    for allocation in (UNIFORM, "error_curves"):
        for method in SETTINGS.methods:
            assert [run.seed for run in chosen(runs, allocation, method)] == [0, 1]


def test_what_reads_no_image_is_made_once(runs: list[Run]) -> None:
    first, second = chosen(runs, UNIFORM, "none")
    assert first.is_right is second.is_right
    first, second = chosen(runs, UNIFORM, "norms")
    assert first.is_right is not second.is_right


def test_our_seconds_include_the_preparation(runs: list[Run]) -> None:
    assert chosen(runs, UNIFORM, "sequential")[0].seconds > 0
    assert chosen(runs, UNIFORM, "none")[0].seconds < chosen(runs, UNIFORM, "sequential")[0].seconds


def test_the_same_settings_give_the_same_runs(subject: Subject, runs: list[Run]) -> None:
    again = compare(subject, SETTINGS)
    assert all(torch.equal(a.is_right, b.is_right) for a, b in zip(runs, again, strict=True))


def test_a_policy_gives_the_second_allocation(subject: Subject, tmp_path: Path) -> None:
    graph = graph_of(subject.model)
    kept = {"0": torch.arange(3), "3": torch.arange(4, 8)}
    path = tmp_path / "policy.json"
    make_policy(graph, kept, criterion="l1", budget={}, seed=0).save(path)
    runs = list(compare(subject, replace(SETTINGS, seeds=(0,), policy=path)))
    cost = graph.cost({"0": 3, "3": 4}).flops / graph.cost().flops
    assert [run.macs_ratio for run in runs if run.allocation == "policy.json"] == [cost] * 3
