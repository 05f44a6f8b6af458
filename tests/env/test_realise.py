from dataclasses import replace
from typing import Any

import pytest
import torch
from pruning import samples, tiny, tiny_env
from torch import nn
from torch.nn.utils import parameters_to_vector

from amc_env import ChannelPruningEnv, EnvSettings, PruningData, RepairSettings, Split
from amc_env.env.realise import adjust, realise
from amc_env.rewards import RewardContext
from amc_env.training import TrainingSettings


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


def test_finalists_are_judged_on_the_selection_split() -> None:
    env = tiny_env(
        reward=lambda context: float(context.evaluator.split.inputs[0, 0, 0, 0]),
        selection=samples(16, seed=2),
    )
    own = env.data.validation, env.data.judging
    (counts, _) = candidates(2)
    compact = env.pruner.prune(counts).model
    found = [play(compact, counts).reward for play in (env.pay, env.judge)]
    assert found == [float(split.inputs[0, 0, 0, 0]) for split in own]


def test_what_one_split_favours_is_not_kept_if_the_other_does_not() -> None:
    selection = samples(16, seed=2)

    def widest_on_validation(context: RewardContext) -> float:
        is_selection = len(context.labels) == len(selection)
        stem = float(context.counts["stem"])
        return -stem if is_selection else stem

    for split, best in ((selection, 2), (None, 0)):
        env = tiny_env(reward=widest_on_validation, selection=split)
        assert realise(env, candidates(3))[0] == best


@pytest.mark.parametrize("name", ["accuracy", "loss", "kl_to_original", "univariate_entropy"])
def test_on_the_selection_split_every_reward_reads_its_samples_alone(name: str) -> None:
    selection = samples(16, seed=2)
    env = tiny_env(reward=name, selection=selection)
    # To this environment the same samples are those of calibration and validation.
    other = ChannelPruningEnv(
        model=env.graph.model,
        data=PruningData(calibration=selection, validation=selection),
        reward=name,
        settings=env.settings,
    )
    (counts,) = candidates(1)
    compact = env.pruner.prune(counts).model
    assert env.judge(compact, counts) == other.pay(compact, counts)


def test_a_selection_split_with_unknown_classes_is_refused_at_once() -> None:
    beyond = Split(inputs=samples(8, seed=2).inputs, labels=torch.full((8,), 4))
    with pytest.raises(ValueError, match="gives scores of 4 classes, but there is a label 4"):
        tiny_env(selection=beyond)


def test_the_network_is_repaired_layer_by_layer() -> None:
    env = tiny_env()
    (counts,) = candidates(1)
    counts["wide"] = 6
    _, compact = realise(env, [counts])
    expected = env.pruner.prune_sequentially(counts).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in compact.state_dict().items())


def test_where_nothing_is_repaired_the_best_candidate_is_only_cut() -> None:
    settings = EnvSettings(repair=RepairSettings(repair="none"))
    env = tiny_env(reward=rewarded([1.0, 3.0]), settings=settings)
    best, compact = realise(env, candidates(2))
    assert best == 1
    kept = env.policy(candidates(2)[1]).kept
    cut = env.graph.compact(kept).state_dict()
    assert all(torch.equal(value, cut[name]) for name, value in compact.state_dict().items())


def test_without_a_candidate_there_is_nothing_to_realise() -> None:
    with pytest.raises(ValueError, match="there is no candidate to realise"):
        realise(tiny_env(), [])


def test_what_is_paid_is_the_network_that_is_given() -> None:
    settings = EnvSettings(repair=RepairSettings(repair="plain"))
    env = tiny_env(reward="loss", settings=settings)
    counts = {"stem": 4, "wide": 6, "last": 5}
    plain, sequential = env.pruner.prune(counts).model, env.pruner.prune_sequentially(counts)
    assert env.pay(plain, counts) == env.evaluate(counts)
    paid = env.pay(sequential, counts)
    assert paid.flops == env.graph.cost(counts).flops
    assert paid.reward != env.evaluate(counts).reward
    logits = env.evaluator.outputs(sequential)
    loss = nn.functional.cross_entropy(logits, env.data.validation.labels)
    assert paid.reward == pytest.approx(-float(loss), rel=1e-5)


WITHOUT_LABELS = TrainingSettings(
    epochs=10, learning_rate=0.003, batch=8, clip=1.0, distil=1.0, precision="float32"
)
NARROW = {"stem": 4, "wide": 6, "last": 5}


def test_an_adjustment_comes_nearer_to_the_original_and_leaves_its_network_alone() -> None:
    model = tiny()
    with torch.no_grad():
        # Scores that differ from sample to sample, as those of a trained network do.
        model.head.weight *= 300
        model.head.bias -= model(samples(24).inputs).mean(0)
    data = PruningData(
        calibration=samples(256), validation=samples(40, seed=1), selection=samples(100, seed=2)
    )
    env = ChannelPruningEnv(model=model, data=data, reward="kl_to_original")
    compact = env.pruner.prune_sequentially(NARROW)
    before = {name: value.clone() for name, value in compact.state_dict().items()}
    adjusted = adjust(env, compact, WITHOUT_LABELS)
    assert env.judge(adjusted, NARROW).reward > env.judge(compact, NARROW).reward
    assert all(torch.equal(value, before[name]) for name, value in compact.state_dict().items())


def test_an_adjustment_reads_no_label() -> None:
    found = []
    for shift in (0, 1):
        env = tiny_env(reward="kl_to_original")
        calibration = env.data.calibration
        env.data = replace(
            env.data, calibration=replace(calibration, labels=(calibration.labels + shift) % 4)
        )
        compact = env.pruner.prune_sequentially(NARROW)
        found.append(adjust(env, compact, WITHOUT_LABELS))
    one, other = (parameters_to_vector(network.parameters()) for network in found)
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_an_adjustment_that_gains_nothing_is_undone() -> None:
    env = tiny_env()
    # All channels stay, so the network is as near to the original as one can be.
    whole = env.pruner.prune_sequentially({})
    assert adjust(env, whole, WITHOUT_LABELS) is whole


def test_an_adjustment_with_labels_is_refused() -> None:
    env = tiny_env()
    with pytest.raises(ValueError, match=r"distil is 0\.5; .* give distil=1"):
        adjust(env, env.graph.model, replace(WITHOUT_LABELS, distil=0.5))
