from functools import partial

import pytest
import torch
from pruning import samples, tiny, tiny_env
from torch import Tensor, nn

from amc_env import Split, evaluation
from amc_env.evaluation import Evaluator, hardest_first
from amc_env.folding import folds_of
from amc_env.precision import Choice, Format, measure
from amc_env.tasks import Classification


class Watching(nn.Module):
    """Gives class scores and notes what it is given."""

    def __init__(self, outputs: int = 4) -> None:
        super().__init__()
        self.outputs = outputs
        self.is_half: list[bool] = []
        self.is_last: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        self.is_half.append(torch.is_autocast_enabled("cpu"))
        self.is_last.append(x.is_contiguous(memory_format=torch.channels_last))
        return x.flatten(1)[:, : self.outputs]


def split(count: int = 30) -> Split:
    inputs = torch.randn(count, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    return Split(inputs=inputs, labels=torch.arange(count) % 4)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_stated_precision_is_used_with_channels_last_and_nothing_is_measured(
    precision: str,
) -> None:
    model = Watching()
    evaluator = Evaluator(split(), batch=20, precision=precision)  # type: ignore[arg-type]
    evaluator.outputs(model)
    assert model.is_half == [precision == "bfloat16"] * 2
    assert model.is_last == [True, True]
    assert evaluator.choice == Choice(format=Format(precision=precision))  # type: ignore[arg-type]


def test_auto_measures_on_the_first_network_and_stays_with_it() -> None:
    first, second = Watching(), Watching()
    evaluator = Evaluator(split())
    assert evaluator.choice is None
    evaluator.outputs(first)
    chosen = evaluator.choice
    assert chosen is not None
    assert set(first.is_half) == {False, True}
    assert evaluator.choose(second) is chosen
    evaluator.outputs(second)
    assert second.is_half == [chosen.format.precision == "bfloat16"]


class Slow(nn.Module):
    """Computes for two milliseconds a sample, by a clock of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def forward(self, x: Tensor) -> Tensor:
        self.now += 2e-3 * len(x)
        return x.flatten(1)[:, :4]


@pytest.mark.parametrize(("count", "measured"), [(150, 50), (400, 100), (4000, 200)])
def test_the_more_samples_are_evaluated_the_more_auto_measures_on(
    count: int, measured: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Slow()
    monkeypatch.setattr(evaluation, "measure", partial(measure, clock=lambda: model.now))
    assert Evaluator(split(count), batch=200).choose(model).samples == measured


def test_images_lie_in_memory_as_was_chosen() -> None:
    model, evaluator = Watching(), Evaluator(split())
    evaluator.choose(Watching())
    assert evaluator.choice is not None
    evaluator.outputs(model)
    assert model.is_last == [evaluator.choice.format.channels_last]


def test_folded_norms_change_the_scores_by_rounding_only() -> None:
    model, data = tiny(), samples(30)
    folds = folds_of(model, data.inputs[:2])
    plain = Evaluator(data, precision="float32").outputs(model)
    fast = Evaluator(data, precision="float32", folds=folds).outputs(model.train())
    assert len(folds) == 1
    assert torch.allclose(fast, plain, rtol=1e-5, atol=1e-6)
    assert model.training


def test_an_environment_folds_and_measures_once() -> None:
    env = tiny_env()
    assert env.evaluator.choice == Choice(format=Format())
    logits = Evaluator(env.data.validation, precision="float32").outputs(env.graph.model)
    assert torch.allclose(env.evaluator.outputs(env.graph.model), logits, rtol=1e-5, atol=1e-6)
    runs: list[nn.Module] = []
    hook = env.graph.model.norm.register_forward_hook(lambda m, *_: runs.append(m))  # type: ignore[union-attr]
    env.evaluator.outputs(env.graph.model)
    hook.remove()
    assert runs == []


@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_outputs_that_are_no_scores_are_refused(precision: str) -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    with pytest.raises(ValueError, match="the network gives tuple; it must give scores"):
        Evaluator(split(), precision=precision).outputs(Pair())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="scores of 3 classes, but there is a label 3"):
        Evaluator(split(), precision=precision).outputs(Watching(3))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "message"), [({"batch": 0}, "batch is 0"), ({"precision": "half"}, "'half' does")]
)
def test_bad_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Evaluator(split(), **settings)  # type: ignore[arg-type]


def test_accuracy_is_the_share_of_right_classes() -> None:
    scores = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 3.0], [0.5, 0.1]])
    assert Classification().evaluate(scores, torch.tensor([0, 1, 0, 0])) == 0.75


def test_the_hardest_samples_are_those_of_the_greatest_loss() -> None:
    scores = torch.tensor([[4.0, 0.0], [2.0, 0.0], [0.5, 0.0]])
    split = Split(inputs=scores, labels=torch.tensor([1, 0, 1]))
    assert hardest_first(split, nn.Identity()) == [0, 2, 1]
    with pytest.raises(ValueError, match="the samples have no labels"):
        hardest_first(Split(inputs=scores), nn.Identity())
