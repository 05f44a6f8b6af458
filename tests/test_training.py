import pytest
import torch
from pruning import samples, tiny

from amc_env.data.datasets import digits
from amc_env.evaluation import Evaluator
from amc_env.latency import latencies_ms
from amc_env.models import build_model
from amc_env.training import TrainingSettings, fit_


def test_training_learns_and_the_same_seed_gives_the_same_weights() -> None:
    data = digits()
    models = [build_model("digits_cnn", seed=0) for _ in range(2)]
    losses: list[float] = []
    for model in models:
        fit_(model, data.train, TrainingSettings(epochs=3), on_epoch=lambda _, x: losses.append(x))
        assert not model.training
    assert losses[2] < 0.5 * losses[0]
    assert losses[:3] == losses[3:]
    assert Evaluator(data.test, precision="float32").accuracy(models[0]) > 0.9
    for mine, other in zip(*(m.parameters() for m in models), strict=True):
        assert torch.equal(mine, other)


def test_images_are_moved_and_mirrored_only_when_asked() -> None:
    model, data = tiny(), samples(16)
    before = data.inputs.clone()
    fit_(model, data, TrainingSettings(epochs=1, shift=2, flip=True))
    assert torch.equal(data.inputs, before)
    untouched = [p.clone() for p in model.parameters()]
    fit_(model, data, TrainingSettings(epochs=0))
    assert all(torch.equal(a, b) for a, b in zip(untouched, model.parameters(), strict=True))


def test_bad_training_is_refused() -> None:
    with pytest.raises(ValueError, match="epochs is -1"):
        TrainingSettings(epochs=-1)
    with pytest.raises(ValueError, match="try a smaller learning_rate"):
        fit_(tiny(), samples(64), TrainingSettings(epochs=4, learning_rate=1e20))


def test_latencies_are_one_a_network() -> None:
    assert len(latencies_ms([tiny(), tiny()], samples(4).inputs, repeats=3)) == 2
