"""Networks whose layers are functions of parameters, with no module of their own."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pruning import tiny_data
from structure.networks import BareWeights
from torch import Tensor, nn

from amc_env import Budget, ChannelGraph, ChannelPruningEnv, EnvSettings, RepairSettings
from amc_env.criteria import Criterion, make_criterion
from amc_env.repair.plan import repaired_layers, unrepaired_layers


class BareConvolutions(nn.Module):
    """Two convolutions without a module, so that every group has maps to look at."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(6, 1, 3, 3))
        self.second = nn.ParameterList([torch.randn(5, 6, 3, 3)])
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.first).relu()
        return self.head(F.conv2d(x, self.second[0]).relu().mean((2, 3)))


def bare_env(model: nn.Module, criterion: Criterion | str) -> ChannelPruningEnv:
    return ChannelPruningEnv(
        model=model.eval(),
        data=tiny_data(),
        criterion=criterion,
        reward="loss",
        budget=Budget(flops=0.6),
        settings=EnvSettings(repair=RepairSettings(calibration_batch=24), precision="float32"),
    )


def play(env: ChannelPruningEnv) -> dict[str, Any]:
    """The last info of an episode that asks for half of every group."""
    seen, _ = env.reset()
    done = False
    while not done:
        assert env.observation_space.contains(seen)
        seen, reward, done, _, info = env.step(np.array([0.5], dtype=np.float32))
    assert np.isfinite(reward)
    assert info["flops_ratio"] <= 0.6
    return info


@pytest.mark.parametrize("criterion", ["l2", "fpgm", "class_mi", "taylor"])
def test_an_episode_goes_to_its_end(criterion: str) -> None:
    torch.manual_seed(0)
    env = bare_env(BareWeights(), criterion)
    counts = play(env)["counts"]
    compact = env.pruner.prune(counts).model
    assert len(compact.first) == 2 * counts["first"]
    assert len(compact.weight) == counts["weight"]


def test_criteria_that_read_maps_find_those_of_layers_without_a_module() -> None:
    torch.manual_seed(0)
    info = play(bare_env(BareConvolutions(), make_criterion("mi_aura", {"bins": 4})))
    assert set(info["counts"]) == {"first", "second.0"}


def test_layers_without_a_module_are_listed_as_not_repaired() -> None:
    torch.manual_seed(0)
    graph = ChannelGraph(BareWeights().eval(), tiny_data().calibration.inputs[:2])
    assert repaired_layers(graph) == ("mid", "head")
    assert unrepaired_layers(graph) == ("others.0", "others.1", "inner", "weight", "outer")
