"""An NVIDIA GPU comes to the same as the CPU; ``bash .ci/gpu`` runs these."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from on_devices import (
    TASKS,
    adjusted,
    measured,
    of_task,
    outcome,
    repaired,
    trained,
    trained_on_bytes,
)
from pruning import samples, tiny, tiny_data
from torch import Tensor

from amc_env import Budget, ChannelGraph, ChannelPruningEnv, EnvSettings, RepairSettings
from amc_env.agents import SearchResult, search
from amc_env.calibration import calibrate
from amc_env.criteria import CRITERIA, make_criterion
from amc_env.evaluation import Evaluator
from amc_env.information.aura import spatial_entropy
from amc_env.rewards import REWARDS

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DEVICE = "cuda"
SINGLE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(autouse=True)
def _full_precision(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # TF32 keeps ten bits of a product's factors, which no comparison with the CPU survives.
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    yield
    torch.cuda.set_sync_debug_mode("default")


def test_a_graph_has_the_same_groups() -> None:
    here, there = (
        ChannelGraph(tiny().to(device), samples(2).inputs.to(device)) for device in ("cpu", DEVICE)
    )
    assert [(g.name, g.channels) for g in here.groups] == [
        (g.name, g.channels) for g in there.groups
    ]
    assert here.cost({"stem": 3}) == there.cost({"stem": 3})


def test_calibration_sums_up_the_same() -> None:
    grams = [
        calibrate(
            tiny().to(device), [samples(24).inputs.to(device)], layers=["wide", "depthwise"]
        ).grams
        for device in (DEVICE, "cpu")
    ]
    for name, gram in grams[0].items():
        assert gram.device.type == DEVICE
        assert torch.allclose(gram.cpu(), grams[1][name], rtol=1e-5)


def test_repairs_solve_for_the_same_weights() -> None:
    for there, here in zip(repaired(DEVICE), repaired("cpu"), strict=True):
        assert there.device.type == DEVICE
        assert torch.allclose(there.cpu(), here, **SINGLE)


def test_entropies_are_the_same() -> None:
    x = torch.randn(20, 16, 8, 8, generator=torch.Generator().manual_seed(0)).relu_()
    there, here = spatial_entropy(x.to(DEVICE), bins=16), spatial_entropy(x, bins=16)
    assert torch.allclose(there.cpu(), here, rtol=1e-6)


def test_evaluations_are_the_same() -> None:
    outputs = [
        Evaluator(samples(40).to(device), precision="float32").outputs(tiny().to(device))
        for device in (DEVICE, "cpu")
    ]
    assert torch.allclose(outputs[0].cpu(), outputs[1], **SINGLE)


@pytest.mark.parametrize("name", [name for name in CRITERIA if name != "bn_scale"])
def test_criteria_keep_the_same_channels(name: str) -> None:
    (_, there), (_, here) = (
        outcome(device, criterion=make_criterion(name), reward="loss") for device in (DEVICE, "cpu")
    )
    assert there == here


@pytest.mark.parametrize("name", [name for name in REWARDS if name != "weighted"])
def test_rewards_pay_the_same(name: str) -> None:
    (there, _), (here, _) = outcome(DEVICE, reward=name), outcome("cpu", reward=name)
    assert there == pytest.approx(here, rel=1e-4)


@pytest.mark.parametrize("name", TASKS)
def test_tasks_come_to_the_same(name: str) -> None:
    assert of_task(name, DEVICE) == pytest.approx(of_task(name, "cpu"), rel=1e-3)


@pytest.mark.parametrize("parameters", [trained, trained_on_bytes, adjusted])
def test_training_comes_to_the_same(parameters: Callable[[str], list[Tensor]]) -> None:
    for there, here in zip(parameters(DEVICE), parameters("cpu"), strict=True):
        assert torch.allclose(there, here, rtol=1e-3, atol=1e-4)


def test_latencies_are_measured(tmp_path: Path) -> None:
    table = measured(DEVICE, tmp_path / "table.json")
    assert all(p.least_ms > 0.0 for segment in table.segments for p in segment.points)


def searched(device: str) -> SearchResult:
    data = tiny_data()
    return search(
        tiny().to(device),
        calibration=data.calibration,
        validation=data.validation,
        budget=Budget(flops=0.6),
        agent="random",
        episodes=5,
        reward="loss",
        settings=EnvSettings(precision="float32"),
    )


def test_a_search_finds_the_same_policy() -> None:
    there, here = searched(DEVICE), searched("cpu")
    assert there.policy.counts == here.policy.counts
    assert there.best.reward == pytest.approx(here.best.reward, rel=1e-4)


def test_no_step_before_the_last_waits_for_the_gpu() -> None:
    env = ChannelPruningEnv(
        model=tiny().to(DEVICE),
        data=tiny_data(),
        reward="loss",
        budget=Budget(flops=0.6),
        settings=EnvSettings(repair=RepairSettings(repair="plain"), precision="float32"),
    )
    env.reset()
    torch.cuda.set_sync_debug_mode("error")
    for _ in env.graph.groups[:-1]:
        env.step(np.array([0.5], np.float32))
