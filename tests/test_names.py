from pathlib import Path

import numpy as np
import pytest
from pruning import tiny, tiny_data

from amc_env import ChannelPruningEnv
from amc_env.criteria import make_criterion
from amc_env.rewards import make_reward

MODULE = """
import torch
from amc_env.criteria import Criterion

class Middle(Criterion):
    name = "middle"

    def __init__(self, centre: float = 0.5) -> None:
        self.centre = centre

    def scores(self, group, calibration):
        return -(torch.linspace(0, 1, group.channels) - self.centre).abs()

def smallness(power: float = 1.0):
    return lambda context: (1 - context.cost.flops / context.original_cost.flops) ** power
"""
ENTRY_POINTS = """
[amc_env.criteria]
middle = amc_env_plugin:Middle
l2 = amc_env_plugin:Middle
lost = amc_env_plugin:Nowhere

[amc_env.rewards]
smallness = amc_env_plugin:smallness
"""


@pytest.fixture
def _plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package as pip leaves it, with entry points."""
    (tmp_path / "amc_env_plugin.py").write_text(MODULE)
    info = tmp_path / "amc_env_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: amc-env-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("_plugin")
def test_an_installed_package_adds_criteria_and_rewards() -> None:
    env = ChannelPruningEnv(model=tiny(), data=tiny_data(), criterion="middle", reward="smallness")
    env.reset()
    for _ in env.graph.groups:
        *_, reward, done, _, info = env.step(np.array([0.5], np.float32))
    assert done
    assert reward == pytest.approx(1 - info["flops_ratio"])
    assert info["policy"].kept["stem"].tolist() == [2, 3, 4, 5]


@pytest.mark.usefixtures("_plugin")
def test_what_a_package_adds_takes_options_and_is_listed_where_a_name_is_wrong() -> None:
    assert make_criterion("middle", {"centre": 0.25}).centre == 0.25
    with pytest.raises(ValueError, match=r"the nearest is 'middle', choose one of l1, .*middle"):
        make_criterion("midle")
    with pytest.raises(ValueError, match=r"reward 'smallness' cannot take \{'pover': 2\}"):
        make_reward("smallness", {"pover": 2})


@pytest.mark.usefixtures("_plugin")
def test_a_package_does_not_stand_in_for_a_criterion_of_ours() -> None:
    assert make_criterion("l2").name == "l2"


@pytest.mark.usefixtures("_plugin")
def test_what_a_package_offers_and_lacks_is_said() -> None:
    with pytest.raises(ValueError, match="'lost' is amc_env_plugin:Nowhere, which cannot be"):
        make_criterion("lost")
