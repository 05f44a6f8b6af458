from dataclasses import replace
from itertools import product
from typing import get_args

import numpy as np
import pytest
import torch
from pruning import tiny_data, tiny_env
from torch import Tensor, nn

from amc_env import ChannelPruningEnv, Split
from amc_env.calibration.hooks import evaluating
from amc_env.evaluation import Evaluator
from amc_env.information.aura import Base, Span, layer_entropy, spatial_entropy
from amc_env.rewards import REWARDS, NetworkLayers, RewardContext, WeightedSum, make_reward
from amc_env.rewards.functions import is_repeatable

ENV = tiny_env()
# The rewards that need options get these.
OPTIONS = {"weighted": {"accuracy": 1.0, "spatial_entropy": 0.5}}
COUNTS = {group.name: max(2, group.channels // 2) for group in ENV.graph.groups}


def context(
    *, counts: dict[str, int] | None = None, seed: int = 0, draw: float = 0.25
) -> RewardContext:
    counts = COUNTS if counts is None else counts
    return RewardContext(
        compact=ENV.pruner.prune(counts).model,
        original=ENV.graph.model,
        evaluator=ENV.evaluator,
        original_outputs=ENV.evaluator.outputs(ENV.graph.model),
        calibration=ENV.data.calibration,
        layers=NetworkLayers.of(ENV.graph),
        counts=counts,
        cost=ENV.graph.cost(counts),
        original_cost=ENV.graph.cost(),
        seed=seed,
        draw=draw,
    )


@pytest.mark.parametrize("name", REWARDS)
def test_a_reward_is_a_finite_number_and_the_same_again(name: str) -> None:
    given = context()
    before = {k: v.clone() for k, v in given.compact.state_dict().items()}
    options = OPTIONS.get(name)
    values = [make_reward(name, options)(given), make_reward(name, options)(context())]
    assert np.isfinite(values[0])
    assert values[0] == values[1]
    assert all(torch.equal(v, before[k]) for k, v in given.compact.state_dict().items())


@pytest.mark.parametrize("name", REWARDS)
def test_every_reward_ends_an_episode(name: str) -> None:
    env = tiny_env(reward=make_reward(name, OPTIONS.get(name)))
    env.reset()
    for _ in env.graph.groups:
        *_, reward, done, _, info = env.step(np.array([0.5], np.float32))
    assert done
    expected = make_reward(name, OPTIONS.get(name))(context(counts=info["counts"]))
    assert reward == expected


def test_accuracy_and_loss_are_those_of_the_split() -> None:
    given = context()
    with torch.no_grad():
        # A repaired network is so like the original that rounding would show.
        given.compact.head.weight.mul_(10)
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


def test_kl_to_original_is_the_divergence_of_the_class_probabilities_and_reads_no_label() -> None:
    given = context()
    with torch.no_grad():
        # A repaired network is so like the original that rounding would show.
        given.compact.head.weight.mul_(10)
    split = ENV.evaluator.split
    with evaluating(given.compact), evaluating(given.original):
        p, q = (m(split.inputs).double().softmax(1) for m in (given.original, given.compact))
    expected = -float((p * (p / q).log()).sum(1).mean())
    assert make_reward("kl_to_original")(given) == pytest.approx(expected, rel=1e-4)
    others = Split(inputs=split.inputs, labels=(split.labels + 1) % 4)
    relabelled = replace(given, evaluator=Evaluator(others, precision="float32"))
    assert make_reward("kl_to_original")(relabelled) == pytest.approx(expected, rel=1e-4)


def test_a_context_runs_the_network_once_for_all_rewards() -> None:
    given = context()
    runs: list[int] = []
    hook = given.compact.register_forward_pre_hook(lambda _, x: runs.append(len(x[0])))
    for name in ("accuracy", "loss", "kl_to_original", "neg_error_log_flops"):
        make_reward(name)(given)
    hook.remove()
    assert sum(runs) == len(ENV.evaluator.split)


def test_spatial_entropy_is_that_of_the_maps_and_its_opposite() -> None:
    given = context()
    with evaluating(given.compact):
        x = ENV.data.calibration.inputs
        stem = given.compact.norm(given.compact.stem(x)).relu()
        depthwise = given.compact.depthwise(stem)
        wide = given.compact.wide(depthwise).relu()
        last = given.compact.last(wide).relu()
    each = []
    for maps in (stem, depthwise, wide, last):
        live = maps.flatten(2).amax((0, 2)) > maps.flatten(2).amin((0, 2))
        each.append(spatial_entropy(maps, bins=256)[live].mean().item())
    reward = make_reward("spatial_entropy")(given)
    assert reward == pytest.approx(1 - np.mean(each), abs=1e-6)
    assert make_reward("spatial_entropy_max")(given) == pytest.approx(1 - reward)
    # The depthwise convolution makes no channels of its own.
    reward = make_reward("spatial_entropy", {"layers": "pruned"})(given)
    assert reward == pytest.approx(1 - np.mean([each[0], *each[2:]]), abs=1e-6)


def test_random_rewards_depend_on_seed_and_numbers_of_channels_alone() -> None:
    reward = make_reward("random")
    values = {
        reward(context()),
        reward(context(seed=1)),
        reward(context(counts={**COUNTS, "wide": COUNTS["wide"] + 1})),
    }
    assert len(values) == 3
    assert reward(context()) in values


def test_fresh_random_rewards_are_the_draw_of_the_episode() -> None:
    reward = make_reward("random", {"fresh": True})
    assert [reward(context(draw=draw)) for draw in (0.25, 0.75)] == [0.25, 0.75]
    parts = {"random": reward, "accuracy": make_reward("accuracy")}
    for made, repeats in (
        (reward, False),
        (WeightedSum(parts=parts, weights={"random": 1.0, "accuracy": 1.0}), False),
        (make_reward("random"), True),
        (make_reward({"random": 1.0, "accuracy": 1.0}), True),
        (lambda _context: 1.0, True),
    ):
        assert is_repeatable(made) is repeats


def test_weights_make_a_sum_and_its_parts_are_listed() -> None:
    weights = {"accuracy": 1.0, "spatial_entropy": 0.5}
    env = tiny_env(reward=weights)
    env.reset()
    for _ in env.graph.groups:
        *_, reward, _, _, info = env.step(np.array([0.5], np.float32))
    parts = info["reward_parts"]
    assert reward == pytest.approx(parts["accuracy"] + 0.5 * parts["spatial_entropy"])
    assert parts["accuracy"] == info["accuracy"]


def test_the_weighted_reward_is_a_name_like_any_other() -> None:
    weights = {"accuracy": 1.0, "spatial_entropy": 0.5}
    given = context()
    assert make_reward("weighted", weights)(given) == make_reward(weights)(given)
    with pytest.raises(ValueError, match="parts none and weights for none; give at least one"):
        make_reward("weighted")
    with pytest.raises(ValueError, match="'acuracy' does not exist; the nearest is 'accuracy'"):
        make_reward("weighted", {"acuracy": 1.0})
    with pytest.raises(ValueError, match="give at least one part, and each one weight"):
        WeightedSum(parts={"loss": make_reward("loss")}, weights={"accuracy": 1.0})


@pytest.mark.parametrize("weight", ["much", None, True, float("nan"), float("inf"), [1.0]])
def test_a_weight_that_is_no_finite_number_is_refused(weight: object) -> None:
    with pytest.raises(ValueError, match=r"^the weight of the reward 'loss' is .*; give a finite"):
        make_reward("weighted", {"accuracy": 1.0, "loss": weight})


class Pixel(nn.Module):
    """A network whose maps are single pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(64, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.hidden(x.flatten(1)).relu())
        return out


@pytest.mark.parametrize("name", ["spatial_entropy", "spatial_entropy_max"])
def test_an_entropy_reward_refuses_a_network_without_any_entropy(name: str) -> None:
    torch.manual_seed(0)
    env = ChannelPruningEnv(model=Pixel().eval(), data=tiny_data(), reward=name)
    env.reset()
    with pytest.raises(ValueError, match=f"reward {name} at bins 256 finds no entropy in any of"):
        env.step(np.array([0.5], np.float32))


def test_the_range_of_the_grey_levels_and_the_entropy_of_a_pixel_may_be_chosen() -> None:
    given = context()
    each = given.maps(100, layers="all")
    paid = {}
    for scope, h0 in product(get_args(Span), get_args(Base)):
        paid[scope, h0] = make_reward("spatial_entropy", {"bins": 8, "scope": scope, "h0": h0})(
            given
        )
        layers = [layer_entropy(maps, bins=8, scope=scope, h0=h0) for maps in each]
        assert paid[scope, h0] == pytest.approx(1 - sum(layers) / len(layers))
    assert len({paid[scope, "pair"] for scope in get_args(Span)}) == 3
    assert len({paid["channel", h0] for h0 in get_args(Base)}) >= 2


def test_the_histogram_reward_refuses_maps_that_are_constant() -> None:
    given = context()
    for layer in (given.compact.stem, given.compact.wide, given.compact.last):
        nn.init.zeros_(layer.weight)
    with pytest.raises(
        ValueError, match=r"univariate_entropy at bins 64 .* stem, wide, last: each"
    ):
        make_reward("univariate_entropy", {"bins": 64, "layers": "pruned"})(given)


@pytest.mark.parametrize("dead", ["constant", "zero"])
@pytest.mark.parametrize("name", ["spatial_entropy", "spatial_entropy_max", "univariate_entropy"])
def test_an_entropy_reward_refuses_a_network_in_which_no_channel_is_alive(
    name: str, dead: str
) -> None:
    given = context()
    for module in given.compact.modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    with pytest.raises(ValueError, match=f"the reward {name} at bins 256 finds no entropy in any"):
        make_reward(name, {"dead": dead})(given)


def test_a_function_is_a_reward_and_a_misspelt_name_is_none() -> None:
    assert make_reward(lambda c: float(c.cost.params))(context()) == ENV.graph.cost(COUNTS).params
    with pytest.raises(
        ValueError, match="'spatial_entrpy' does not exist; the nearest is 'spatial_e"
    ):
        make_reward("spatial_entrpy")
    with pytest.raises(ValueError, match="cannot take 'bin'; the nearest option is 'bins'"):
        make_reward("spatial_entropy", {"bin": 3})
    with pytest.raises(ValueError, match="reward 'loss' cannot take 'bins'; it has no options"):
        make_reward("loss", {"bins": 3})
    with pytest.raises(ValueError, match="bins is 1"):
        make_reward("spatial_entropy", {"bins": 1})
    with pytest.raises(ValueError, match="'int' is an object of int, which is no reward"):
        make_reward(3)
