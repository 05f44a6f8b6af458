"""Searches, repairs and trainings of every task, on tiny networks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from pruning import samples, tiny, tiny_data, tiny_env
from torch import Tensor, nn

from amc_env import ChannelPruningEnv, EnvSettings, PruningData, RepairSettings, Split
from amc_env.agents import SearchResult, search
from amc_env.data.holding_out import hold_out
from amc_env.env.realise import adjust
from amc_env.evaluation import Evaluator
from amc_env.tasks import Classification, Detection, Regression, Segmentation, Task
from amc_env.training import TrainingSettings, fit_
from benchmarks.tasks.networks import Detector, UNet
from benchmarks.tasks.shapes import detection, segmentation

SETTINGS = EnvSettings(
    repair=RepairSettings(calibration_batch=24, episode_samples=16), precision="float32"
)


@dataclass
class Depths:
    """What a network gives; not a tensor."""

    depth: Tensor
    unused: Tensor


class ByName(nn.Module):
    """Takes two inputs by name and gives a record."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.body = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 2)

    def forward(self, image: Tensor, scale: Tensor) -> Depths:
        x = self.body(self.stem(image).relu()).relu().mean((2, 3))
        return Depths(depth=self.head(x) * scale[:, None], unused=x)


class Halves(Task):
    """A user's own task of the fewest methods."""

    def loss(self, outputs: tuple[Tensor, Tensor], labels: Tensor) -> Tensor:
        return (outputs[0].mean((1, 2, 3)) - labels).abs().mean()

    def evaluate(self, outputs: tuple[Tensor, Tensor], labels: Tensor) -> float:
        return -float(self.loss(outputs, labels))


def named(count: int, seed: int) -> Split:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(count, 1, 6, 6, generator=generator)
    scale = torch.rand(count, generator=generator)
    labels = torch.stack([image.mean((1, 2, 3)) * scale, image.amax((1, 2, 3)) * scale], 1)
    return Split(inputs={"image": image, "scale": scale}, labels=labels)


def parts(train: Split) -> PruningData:
    return PruningData.of_training(train, calibration=24, validation=16, selection=8)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A task with its data and an untrained network."""

    task: Task
    data: Callable[[], PruningData]
    model: Callable[[], nn.Module]


def detector_data() -> PruningData:
    return parts(detection(train=60, test=1, size=32).train)


CASES = {
    "segmentation": Case(
        task=Segmentation(output="out"),
        data=lambda: parts(segmentation(train=60, test=1, size=16).train),
        model=lambda: UNet(width=4),
    ),
    "regression": Case(
        task=Regression(output="depth"), data=lambda: parts(named(60, seed=0)), model=ByName
    ),
    "detection": Case(task=Detection(), data=detector_data, model=lambda: Detector(width=4)),
    "own": Case(
        task=Halves(),
        data=lambda: parts(Split(inputs=torch.randn(60, 3, 32, 32), labels=torch.randn(60))),
        model=lambda: Detector(width=4),
    ),
}


# Detectors have many layers.
EACH = [
    pytest.param(case, id=name, marks=pytest.mark.slow if name in ("detection", "own") else ())
    for name, case in CASES.items()
]


def begun(case: Case) -> tuple[nn.Module, PruningData]:
    torch.manual_seed(0)
    return case.model().eval(), case.data()


def searched(case: Case, **options: Any) -> SearchResult:
    model, data = begun(case)
    return search(
        model,
        calibration=Split(inputs=data.calibration.inputs),
        validation=data.validation,
        selection=data.selection,
        budget=0.5,
        task=case.task,
        settings=SETTINGS,
        finalists=1,
        **{"agent": "uniform", "reward": "loss", **options},
    )


@pytest.mark.parametrize("case", EACH)
def test_a_network_of_any_task_is_searched_repaired_and_trained_without_labels_to_calibrate(
    case: Case,
) -> None:
    model, data = begun(case)
    found = searched(case)
    assert found.best.flops_ratio <= 0.5
    judge = Evaluator(data.validation, precision="float32", task=case.task)
    original, masked, repaired = (
        judge.outputs(network) for network in (model, found.policy.apply(model), found.compact)
    )
    # The repair brings the outputs back towards the original's.
    assert case.task.distance(repaired, original) < case.task.distance(masked, original)
    assert f"{case.task.metric.name} {case.task.metric.text(found.best.accuracy)}" in repr(found)
    settings = TrainingSettings(
        epochs=4, learning_rate=0.01, batch=8, clip=1.0, distil=0.5, precision="float32"
    )
    before = float(case.task.loss(repaired, data.validation.labels))
    fit_(found.compact, data.validation, settings, task=case.task, teacher=model)
    after = float(case.task.loss(judge.outputs(found.compact), data.validation.labels))
    assert after < before


@pytest.mark.parametrize("case", EACH)
def test_a_network_of_any_task_is_adjusted_towards_the_original(case: Case) -> None:
    model, data = begun(case)
    env = ChannelPruningEnv(
        model=model, data=data, task=case.task, reward="kl_to_original", settings=SETTINGS
    )
    counts = {group.name: max(1, group.channels // 2) for group in env.graph.groups}
    compact = env.pruner.prune_sequentially(counts)
    settings = TrainingSettings(
        epochs=3, learning_rate=0.003, batch=8, clip=1.0, distil=1.0, precision="float32"
    )
    adjusted = adjust(env, compact, settings)
    rewards = [env.judge(network, counts).reward for network in (compact, adjusted)]
    assert rewards[0] <= rewards[1] < 0.0
    assert env.judge(model, {}).reward == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("reward", ["kl_to_original", "spatial_entropy"])
def test_rewards_have_a_meaning_for_every_task(reward: str) -> None:
    assert torch.tensor(searched(CASES["regression"], reward=reward).best.reward).isfinite()


def test_the_reward_accuracy_is_the_task_s_metric() -> None:
    best = searched(CASES["segmentation"], reward="accuracy").best
    assert best.reward == best.accuracy


def test_the_same_search_finds_the_same() -> None:
    first, second = (searched(CASES["regression"], agent="random", episodes=3) for _ in range(2))
    assert first.policy == second.policy
    assert first.best.reward == second.best.reward


def env_of(case: Case, **options: Any) -> ChannelPruningEnv:
    model, data = begun(case)
    return ChannelPruningEnv(
        model=model, data=data, task=case.task, settings=SETTINGS, **{"reward": "loss", **options}
    )


@pytest.mark.parametrize("criterion", ["class_mi", "mi_aura", "hrel", "taylor"])
def test_criteria_that_read_classes_refuse_tasks_without(criterion: str) -> None:
    with pytest.raises(
        ValueError,
        match=f"criterion '{criterion}' reads the classes .* the task segmentation has no",
    ):
        env_of(CASES["segmentation"], criterion=criterion)
    data = tiny_data()
    unlabelled = PruningData(
        calibration=Split(inputs=data.calibration.inputs), validation=data.validation
    )
    with pytest.raises(ValueError, match=f"'{criterion}' .*the calibration samples have no labels"):
        ChannelPruningEnv(model=tiny(), data=unlabelled, criterion=criterion)


@pytest.mark.parametrize("criterion", ["l2", "reconstruction", "spatial_entropy"])
def test_other_criteria_need_no_labels(criterion: str) -> None:
    env = env_of(CASES["regression"], criterion=criterion)
    assert {*env.pruner.scores} == {group.name for group in env.graph.groups}


def test_classification_needs_labels_to_calibrate_for_those_criteria_alone() -> None:
    data = tiny_data()
    unlabelled = PruningData(
        calibration=Split(inputs=data.calibration.inputs), validation=data.validation
    )
    without = ChannelPruningEnv(
        model=tiny(), data=unlabelled, reward="loss", settings=tiny_env().settings
    )
    counts = {"stem": 4, "wide": 6}
    assert without.evaluate(counts) == tiny_env().evaluate(counts)


def test_labels_and_rewards_that_do_not_fit_the_task_are_refused() -> None:
    data = CASES["segmentation"].data()
    with pytest.raises(ValueError, match="give one whole number for each of 16 samples"):
        ChannelPruningEnv(model=UNet(width=4), data=data)
    with pytest.raises(ValueError, match="needs a metric from 0 to 1, and the task regression has"):
        env_of(CASES["regression"], reward="neg_error_log_flops")
    unlabelled = PruningData(calibration=samples(4), validation=Split(inputs=samples(8).inputs))
    with pytest.raises(ValueError, match="the task classification needs the labels"):
        ChannelPruningEnv(model=tiny(), data=unlabelled)


def test_only_the_distance_to_the_original_can_be_raced_without_classes() -> None:
    env = env_of(CASES["segmentation"])
    env.reset(options={"budgeting": "clip"})
    with pytest.raises(ValueError, match="the reward 'loss' cannot be raced"):
        env.reset(options={"floor": 0.0})
    raced = env_of(CASES["segmentation"], reward="kl_to_original")
    counts = {group.name: 1 for group in raced.graph.groups}
    assert raced.trial(counts).race(0.0).reward <= 0.0


def test_images_are_not_moved_away_from_their_labels() -> None:
    case = CASES["segmentation"]
    model, data = begun(case)
    for settings in (TrainingSettings(epochs=1, flip=True), TrainingSettings(epochs=1, shift=2)):
        with pytest.raises(ValueError, match="not the labels of the task segmentation"):
            fit_(model, data.validation, settings, task=case.task)
    # Towards the original no label is read, so images may move.
    towards = TrainingSettings(epochs=1, flip=True, distil=1.0, batch=8, precision="float32")
    fit_(model, Split(inputs=data.validation.inputs), towards, task=case.task, teacher=case.model())
    several = TrainingSettings(epochs=1, flip=True, distil=1.0)
    with pytest.raises(ValueError, match="or further inputs"):
        fit_(ByName(), named(8, seed=1), several, task=CASES["regression"].task, teacher=ByName())
    with pytest.raises(ValueError, match="the task classification needs the labels"):
        fit_(tiny(), Split(inputs=samples(8).inputs), TrainingSettings(epochs=1))


def test_labels_that_are_no_classes_are_drawn_at_random() -> None:
    train = named(60, seed=0)
    fitted, held_out = hold_out(train, calibration=10, validation=20, selection=5, seed=0)
    assert len(fitted) + len(held_out) == 60
    assert train.strata.tolist() == [0] * 60


def test_wrapped_networks_are_pruned_as_the_network_inside() -> None:
    env = ChannelPruningEnv(
        model=nn.DataParallel(tiny()), data=tiny_data(), reward="loss", settings=tiny_env().settings
    )
    counts = {"stem": 4, "wide": 6, "last": 10}
    assert env.evaluate(counts) == tiny_env().evaluate(counts)
    assert env.policy(counts).model == "Tiny"


def test_scores_in_a_mapping_are_pruned_as_scores() -> None:
    class Mapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = tiny()

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"features": x, "logits": self.inner(x)}

    env = ChannelPruningEnv(
        model=Mapped().eval(),
        data=tiny_data(),
        criterion="taylor",
        reward="loss",
        task=Classification(output="logits"),
        settings=tiny_env().settings,
    )
    plain = ChannelPruningEnv(
        model=tiny(),
        data=tiny_data(),
        criterion="taylor",
        reward="loss",
        settings=tiny_env().settings,
    )
    outcome = env.evaluate({"inner.stem": 4, "inner.wide": 6})
    assert outcome.reward == pytest.approx(plain.evaluate({"stem": 4, "wide": 6}).reward, rel=1e-5)
