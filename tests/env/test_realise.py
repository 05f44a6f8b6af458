from typing import Any

import pytest
import torch
from pruning import tiny_env
from torch import nn

from amc_env import EnvSettings, RepairSettings
from amc_env.env.realise import realise


def rewarded(rewards: list[float]) -> Any:
    """A reward that ignores the network: one number after the other."""
    paid = iter(rewards)
    return lambda _context: next(paid)


def candidates(count: int) -> list[dict[str, int]]:
    return [{"stem": 8 - n, "wide": 12, "last": 10} for n in range(count)]


def width(model: nn.Module) -> int:
    return int(model.get_submodule("stem").weight.shape[0])


@pytest.mark.parametrize(
    ("rewards", "best"),
    [([1.0, 3.0, 2.0], 1), ([2.0, 1.0, 2.0], 0), ([-3.0, -1.0, -1.0], 1), ([1.0, 1.0, 1.0], 0)],
)
def test_the_best_repaired_candidate_is_kept_and_the_first_of_equals(
    rewards: list[float], best: int
) -> None:
    index, compact = realise(tiny_env(reward=rewarded(rewards)), candidates(3))
    assert index == best
    assert width(compact) == 8 - best


def test_a_single_candidate_is_not_rewarded() -> None:
    index, compact = realise(tiny_env(reward=rewarded([])), candidates(1))
    assert index == 0
    assert width(compact) == 8


def test_the_network_is_repaired_layer_by_layer() -> None:
    env = tiny_env()
    (counts,) = candidates(1)
    counts["wide"] = 6
    _, compact = realise(env, [counts])
    expected = env.pruner.prune_sequentially(counts).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in compact.state_dict().items())


def test_without_a_candidate_there_is_nothing_to_realise() -> None:
    with pytest.raises(ValueError, match="there is no candidate to realise"):
        realise(tiny_env(), [])


def test_what_is_paid_is_the_network_that_is_given() -> None:
    settings = EnvSettings(repair=RepairSettings(sequential=False))
    env = tiny_env(reward="loss", settings=settings)
    counts = {"stem": 4, "wide": 6, "last": 5}
    plain, sequential = env.pruner.prune(counts).model, env.pruner.prune_sequentially(counts)
    assert env.pay(plain, counts) == env.evaluate(counts)
    paid = env.pay(sequential, counts)
    assert paid.flops == env.graph.cost(counts).flops
    assert paid.reward != env.evaluate(counts).reward
    logits = env.evaluator.logits(sequential)
    loss = nn.functional.cross_entropy(logits, env.data.validation.labels)
    assert paid.reward == pytest.approx(-float(loss), rel=1e-5)
