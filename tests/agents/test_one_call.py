"""One call from a trained network to a small one."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest
import torch
from pruning import samples, tiny
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from amc_env import (
    Budget,
    ChannelGraph,
    ChannelPruningEnv,
    EnvSettings,
    PruningData,
    RepairSettings,
    Split,
)
from amc_env.agents import Episode, SearchResult, search
from amc_env.agents.searchers import RandomSearch
from amc_env.repair import Pruner

SETTINGS = EnvSettings(repair=RepairSettings(calibration_batch=24), precision="float32")
CALIBRATION, VALIDATION = samples(24), samples(40, seed=1)


class Plain(nn.Module):
    """Three convolutions, a norm and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.norm = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.wide = nn.Conv2d(8, 12, 3, stride=2)
        self.last = nn.Conv2d(12, 10, 1)
        self.head = nn.Linear(10, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.wide(self.norm(self.stem(x)).relu()).relu()
        out: torch.Tensor = self.head(self.last(x).relu().mean((2, 3)))
        return out


def plain() -> nn.Module:
    return Plain().eval()


# Building the first environment of a process imports much.
FULL = ChannelGraph(plain(), CALIBRATION.inputs).cost()


def pair(split: Split) -> tuple[torch.Tensor, torch.Tensor]:
    return split.inputs, split.labels


def loader(split: Split) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*pair(split)), batch_size=7)


def found(**changes: Any) -> SearchResult:
    given = {
        "calibration": pair(CALIBRATION),
        "validation": pair(VALIDATION),
        "budget": 0.5,
        "agent": "random",
        "reward": "loss",
        "settings": SETTINGS,
        "episodes": 4,
    }
    return search(changes.pop("model", None) or plain(), **{**given, **changes})


@cache
def by_tensors() -> SearchResult:
    return found()


def outcomes(result: SearchResult) -> list[tuple[float, dict[str, int]]]:
    return [(episode.reward, episode.counts) for episode in result.episodes]


def shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in model.state_dict().items()}


def env() -> ChannelPruningEnv:
    return ChannelPruningEnv(
        model=plain(),
        data=PruningData(calibration=CALIBRATION, validation=VALIDATION),
        reward="loss",
        budget=Budget(flops=0.5),
        settings=SETTINGS,
    )


def same(first: nn.Module, second: nn.Module) -> bool:
    one, two = first.state_dict(), second.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def test_the_best_finalist_on_the_selection_samples_is_returned() -> None:
    selection = samples(40, seed=2)
    result = found(selection=pair(selection), episodes=6, finalists=6)
    environment = ChannelPruningEnv(
        model=plain(),
        data=PruningData(calibration=CALIBRATION, validation=VALIDATION, selection=selection),
        reward="loss",
        budget=Budget(flops=0.5),
        settings=SETTINGS,
    )
    rewards = {}
    for episode in result.episodes:
        compact = environment.pruner.prune_sequentially(episode.counts)
        rewards[episode.number] = environment.judge(compact, episode.counts).reward
    assert rewards[result.best.number] == max(rewards.values())
    greatest = max(result.episodes, key=lambda episode: episode.reward)
    assert found(episodes=6, finalists=1).best.number == greatest.number


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"finalists": 0}, "finalists is 0; give at least 1"),
        ({"selection": pair(VALIDATION)}, "40 of the validation samples are selection samples too"),
    ],
)
def test_what_cannot_select_is_refused_at_once(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        found(**changes)


def test_ten_lines_are_enough() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128, 4),
    )
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(120, 1, 8, 8, generator=generator)
    labels = torch.arange(120) % 4
    result = search(
        model,
        calibration=(images[:60], labels[:60]),
        validation=(images[60:], labels[60:]),
        budget=0.5,
        episodes=3,
    )
    assert len(result.episodes) == 3
    assert result.best.flops_ratio <= 0.5
    assert result.compact(images).shape == (120, 4)


@pytest.mark.parametrize(
    "changes",
    [
        {"calibration": loader(CALIBRATION), "validation": loader(VALIDATION)},
        {"calibration": CALIBRATION, "validation": VALIDATION},
        {"budget": Budget(flops=0.5)},
        {"agent": RandomSearch()},
        {"test": samples(10, seed=2)},
    ],
    ids=["loaders", "splits", "budget", "agent", "test"],
)
def test_every_form_of_an_argument_means_the_same(changes: dict[str, Any]) -> None:
    result = found(**changes)
    assert outcomes(result) == outcomes(by_tensors())
    assert same(result.compact, by_tensors().compact)


def test_the_budget_is_one_of_multiply_accumulates_unless_it_says_otherwise() -> None:
    assert by_tensors().policy.budget == {"flops": 0.5}
    assert by_tensors().best.flops_ratio <= 0.5
    assert found(budget=Budget(params=0.4)).best.params_ratio <= 0.4
    assert found(budget=None, agent="uniform").best.flops_ratio == 1.0


def test_criterion_settings_and_seed_reach_the_search() -> None:
    assert by_tensors().policy.criterion == "l2"
    assert found(criterion="l1").policy.criterion == "l1"
    multiples = EnvSettings(
        round_to=4, repair=RepairSettings(calibration_batch=24), precision="float32"
    )
    assert found(settings=multiples).policy.round_to == 4
    assert outcomes(found(seed=1)) != outcomes(by_tensors())
    assert found(seed=1).policy.seed == 1


def test_the_compact_network_has_the_shape_of_the_policy() -> None:
    result = by_tensors()
    assert shapes(result.compact) == shapes(result.policy.apply(plain()))
    assert result.policy.counts == result.best.counts


def plainly_repaired(pruner: Pruner, counts: Mapping[str, int]) -> nn.Module:
    compact = pruner.graph.compact(pruner.plan.kept(counts))
    pruner.plan.apply_(compact, counts)
    return compact


def test_the_compact_network_is_repaired_on_what_it_really_reads() -> None:
    result, pruner = by_tensors(), env().pruner
    counts = result.best.counts
    planned = plainly_repaired(pruner, counts)
    assert shapes(result.compact) == shapes(planned)
    assert same(result.compact, pruner.prune_sequentially(counts))
    ours, theirs = result.compact.state_dict(), planned.state_dict()
    differ = {name for name in ours if not torch.equal(ours[name], theirs[name])}
    layers = ("wide", "last", "head")
    # Its norm has the statistics of what reaches it.
    norm = {f"norm.{part}" for part in ("weight", "bias", "running_mean", "running_var")}
    assert differ == norm | {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}


def test_the_compact_network_is_nearer_to_the_original_than_the_plain_repair() -> None:
    result, pruner = by_tensors(), env().pruner
    planned = plainly_repaired(pruner, result.best.counts)
    with torch.no_grad():
        target = plain()(CALIBRATION.inputs)
        ours, theirs = (
            float((model.eval()(CALIBRATION.inputs) - target).square().mean())
            for model in (result.compact, planned)
        )
    assert ours < theirs


def test_depthwise_convolutions_are_repaired_too() -> None:
    result = found(model=tiny())
    assert shapes(result.compact) == shapes(result.policy.apply(tiny()))


def test_the_network_given_is_not_modified() -> None:
    model = plain()
    search(
        model,
        calibration=CALIBRATION,
        validation=VALIDATION,
        budget=0.5,
        agent="uniform",
        settings=SETTINGS,
    )
    assert same(model, plain())


def test_an_interruption_gives_the_compact_network_of_the_best_so_far() -> None:
    def interrupt(episode: Episode) -> None:
        if episode.number == 2:
            raise KeyboardInterrupt

    result = found(on_episode=interrupt)
    assert not result.is_complete
    assert outcomes(result) == outcomes(by_tensors())[:2]
    assert shapes(result.compact) == shapes(result.policy.apply(plain()))


@pytest.mark.parametrize(
    ("leaks", "name"), [(CALIBRATION, "calibration"), (VALIDATION, "validation")]
)
def test_test_samples_among_the_others_are_refused(leaks: Split, name: str) -> None:
    with pytest.raises(ValueError, match=f"3 of the {name} samples are test samples too"):
        found(test=(leaks.inputs[:3], leaks.labels[:3]))


def test_mistakes_are_refused_in_one_sentence() -> None:
    with pytest.raises(ValueError, match="the budget for flops is 2; give a ratio"):
        found(budget=2)
    with pytest.raises(ValueError, match="agent 'rndom' does not exist; the nearest is 'random'"):
        found(agent="rndom")
    with pytest.raises(ValueError, match="reward 'los' does not exist"):
        found(reward="los")
    with pytest.raises(ValueError, match="neither a pair of tensors"):
        found(calibration=["a file name"])
    with pytest.raises(ValueError, match="the task classification needs the labels"):
        found(validation=VALIDATION.inputs)
    with pytest.raises(ValueError, match="episodes is 0; give at least 1"):
        found(episodes=0)


def test_a_result_prints_what_it_keeps_and_no_module() -> None:
    result = by_tensors()
    lines = repr(result).splitlines()
    assert lines[0].startswith(f"Plain: {result.best.flops_ratio:.3f} of the MACs and ")
    kept = result.policy.counts
    widths = {"stem": 8, "wide": 12, "last": 10}
    expected = [[name, str(kept[name]), "of", str(n)] for name, n in widths.items()]
    assert [line.split() for line in lines[1:]] == expected


def test_progress_is_shown_on_demand(capsys: pytest.CaptureFixture[str]) -> None:
    told: list[int] = []
    result = found(progress=True, on_episode=lambda episode: told.append(episode.number))
    assert told == [1, 2, 3, 4]
    last = capsys.readouterr().out.splitlines()[-1]
    best = max(result.episodes, key=lambda episode: episode.reward)
    right = f"{best.accuracy:.2%} of validation images right"
    assert last == f"searching: 4 of 4, best reward {best.reward:.4f}, {right}"
    found()
    assert capsys.readouterr().out == ""
