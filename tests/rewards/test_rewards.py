import numpy as np
import pytest
import torch
from pruning import tiny_env

from amc_env.calibration.hooks import evaluating
from amc_env.information.aura import spatial_entropy
from amc_env.rewards import REWARDS, RewardContext, WeightedSum, make_reward

ENV = tiny_env()
COUNTS = {group.name: max(2, group.channels // 2) for group in ENV.graph.groups}


def context(*, counts: dict[str, int] | None = None, seed: int = 0) -> RewardContext:
    counts = COUNTS if counts is None else counts
    return RewardContext(
        compact=ENV.pruner.prune(counts).model,
        original=ENV.graph.model,
        evaluator=ENV.evaluator,
        original_logits=ENV.evaluator.logits(ENV.graph.model),
        calibration=ENV.data.calibration,
        layers=("stem", "wide", "last"),
        counts=counts,
        cost=ENV.graph.cost(counts),
        original_cost=ENV.graph.cost(),
        seed=seed,
    )


@pytest.mark.parametrize("name", REWARDS)
def test_a_reward_is_a_finite_number_and_the_same_again(name: str) -> None:
    given = context()
    before = {k: v.clone() for k, v in given.compact.state_dict().items()}
    values = [make_reward(name)(given), make_reward(name)(context())]
    assert np.isfinite(values[0])
    assert values[0] == values[1]
    assert all(torch.equal(v, before[k]) for k, v in given.compact.state_dict().items())


@pytest.mark.parametrize("name", REWARDS)
def test_every_reward_ends_an_episode(name: str) -> None:
    env = tiny_env(reward=name)
    env.reset()
    for _ in env.graph.groups:
        *_, reward, done, _, info = env.step(np.array([0.5], np.float32))
    assert done
    assert reward == make_reward(name)(context(counts=info["counts"]))


def test_accuracy_and_loss_are_those_of_the_split() -> None:
    given = context()
    split = ENV.evaluator.split
    with evaluating(given.compact):
        scores = given.compact(split.inputs)
    expected = (scores.argmax(1) == split.labels).float().mean().item()
    assert make_reward("accuracy")(given) == pytest.approx(expected)
    loss = torch.nn.functional.cross_entropy(scores, split.labels).item()
    assert make_reward("loss")(given) == pytest.approx(-loss, rel=1e-5)
    log_flops = np.log(given.cost.flops)
    assert make_reward("neg_error_log_flops")(given) == pytest.approx(-(1 - expected) * log_flops)


def test_the_original_network_is_nearest_to_itself() -> None:
    whole = {group.name: group.channels for group in ENV.graph.groups}
    assert make_reward("kl_to_original")(context(counts=whole)) == pytest.approx(0, abs=1e-8)
    assert make_reward("kl_to_original")(context()) < -1e-6


def test_spatial_entropy_is_that_of_the_maps_and_its_opposite() -> None:
    given = context()
    with evaluating(given.compact):
        x = ENV.data.calibration.inputs
        stem = given.compact.norm(given.compact.stem(x)).relu()
        wide = given.compact.wide(given.compact.depthwise(stem)).relu()
        last = given.compact.last(wide).relu()
    each = []
    for maps in (stem, wide, last):
        live = maps.flatten(2).amax((0, 2)) > maps.flatten(2).amin((0, 2))
        each.append(spatial_entropy(maps, bins=256)[live].mean().item())
    reward = make_reward("spatial_entropy")(given)
    assert reward == pytest.approx(1 - np.mean(each), abs=1e-6)
    assert make_reward("spatial_entropy_max")(given) == pytest.approx(1 - reward)


def test_random_rewards_hang_on_seed_and_numbers_of_channels_alone() -> None:
    reward = make_reward("random")
    values = {
        reward(context()),
        reward(context(seed=1)),
        reward(context(counts={**COUNTS, "wide": COUNTS["wide"] + 1})),
    }
    assert len(values) == 3
    assert reward(context()) in values


def test_weights_make_a_sum_and_its_parts_are_told() -> None:
    weights = {"accuracy": 1.0, "spatial_entropy": 0.5}
    env = tiny_env(reward=weights)
    env.reset()
    for _ in env.graph.groups:
        *_, reward, _, _, info = env.step(np.array([0.5], np.float32))
    parts = info["reward_parts"]
    assert reward == pytest.approx(parts["accuracy"] + 0.5 * parts["spatial_entropy"])
    assert parts["accuracy"] == info["accuracy"]
    with pytest.raises(ValueError, match="give each one weight"):
        WeightedSum(parts={}, weights={})


def test_a_function_is_a_reward_and_a_misspelt_name_is_none() -> None:
    assert make_reward(lambda c: float(c.cost.params))(context()) == ENV.graph.cost(COUNTS).params
    with pytest.raises(
        ValueError, match="'spatial_entrpy' does not exist; the nearest is 'spatial_e"
    ):
        make_reward("spatial_entrpy")
    with pytest.raises(ValueError, match="cannot take"):
        make_reward("spatial_entropy", {"bin": 3})
    with pytest.raises(ValueError, match="bins is 1"):
        make_reward("spatial_entropy", {"bins": 1})
    with pytest.raises(ValueError, match="give a name, weights by name, or a function"):
        make_reward(3)
