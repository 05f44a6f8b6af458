import pytest
import torch
from pruning import samples, tiny

from amc_env import PruningData, Split
from amc_env.data.datasets import digits
from amc_env.evaluation import Evaluator
from amc_env.models import build_model
from amc_env.training import TrainingSettings, augmented, fit_, hold_out


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


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_mirrored_images_are_the_originals_read_from_the_right() -> None:
    images = samples(64).inputs
    changed = augmented(images, TrainingSettings(flip=True), generator())
    is_mirrored = [torch.equal(a, b.flip(2)) for a, b in zip(changed, images, strict=True)]
    is_same = [torch.equal(a, b) for a, b in zip(changed, images, strict=True)]
    assert all(a != b for a, b in zip(is_mirrored, is_same, strict=True))
    assert 16 < sum(is_mirrored) < 48


def test_shifted_images_are_the_originals_moved_with_zeros_behind() -> None:
    images, seen = samples(3).inputs, set()
    all_moved = {
        (down, right): moved(images, down, right) for down in range(-2, 3) for right in range(-2, 3)
    }
    for seed in range(40):
        changed = augmented(images, TrainingSettings(shift=2), generator(seed))
        found = [shift for shift, expected in all_moved.items() if torch.equal(changed, expected)]
        # All images of the batch moved alike, for one shift explains them all.
        assert len(found) == 1
        seen |= set(found)
    assert {down for down, _ in seen} == {right for _, right in seen} == {-2, -1, 0, 1, 2}


def moved(images: torch.Tensor, down: int, right: int) -> torch.Tensor:
    """Pixel by pixel, so that nothing is shared with the code that is tested."""
    out = torch.zeros_like(images)
    height, width = images.shape[2:]
    for y in range(height):
        for x in range(width):
            if 0 <= y + down < height and 0 <= x + right < width:
                out[:, :, y, x] = images[:, :, y + down, x + right]
    return out


def test_images_are_left_alone_unless_asked() -> None:
    model, data = tiny(), samples(16)
    before = data.inputs.clone()
    assert torch.equal(augmented(before, TrainingSettings(), generator()), before)
    fit_(model, data, TrainingSettings(epochs=1, shift=2, flip=True))
    assert torch.equal(data.inputs, before)
    untouched = [p.clone() for p in model.parameters()]
    fit_(model, data, TrainingSettings(epochs=0))
    assert all(torch.equal(a, b) for a, b in zip(untouched, model.parameters(), strict=True))


def test_training_with_augmentation_reads_the_augmented_images() -> None:
    seen: list[torch.Tensor] = []
    model, data = tiny(), samples(64)
    hook = model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    fit_(model, data, TrainingSettings(epochs=4, flip=True))
    hook.remove()
    assert not all(any(torch.equal(image, own) for own in data.inputs) for image in seen[0])


@pytest.mark.parametrize(
    ("warmup", "rates"), [(0.0, [1.0, 0.854, 0.5, 0.146]), (0.5, [1 / 3, 0.569, 0.5, 0.146])]
)
def test_the_learning_rate_rises_in_the_warm_up_and_falls_along_a_cosine(
    warmup: float, rates: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    # (1 + cos(pi t / 4)) / 2 for t = 0, 1, 2, 3, times 1/3 and 2/3 in the first two of four steps
    seen: list[float] = []
    step = torch.optim.SGD.step

    def spy(self: torch.optim.SGD) -> None:
        seen.append(self.param_groups[0]["lr"])
        step(self)

    monkeypatch.setattr(torch.optim.SGD, "step", spy)
    settings = TrainingSettings(epochs=2, learning_rate=1.0, batch=8, warmup=warmup)
    fit_(tiny(), samples(16), settings)
    assert seen == pytest.approx(rates, abs=1e-3)


def test_a_long_gradient_is_scaled_down(monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[float] = []
    step = torch.optim.SGD.step

    def spy(self: torch.optim.SGD) -> None:
        grads = [p.grad.flatten() for g in self.param_groups for p in g["params"]]
        norms.append(float(torch.cat(grads).norm()))
        step(self)

    monkeypatch.setattr(torch.optim.SGD, "step", spy)
    for clip in (None, 1e-3):
        fit_(tiny(), samples(16), TrainingSettings(epochs=1, clip=clip))
    assert norms[0] > 0.01
    assert norms[1] == pytest.approx(1e-3, rel=1e-2)


def test_few_images_make_smaller_batches_where_that_is_asked() -> None:
    assert TrainingSettings(batch=64).steps(200) == 3
    fine = TrainingSettings(batch=64, min_steps=16)
    assert [fine.steps(n) for n in (5, 64, 200, 8000)] == [1, 8, 16, 125]


@pytest.mark.parametrize(("count", "held"), [(40, 10), (400, 100), (1200, 250), (8000, 800)])
@pytest.mark.parametrize("selection", [0, 100])
def test_held_out_images_are_neither_fitted_nor_calibrated_on(
    count: int, held: int, selection: int
) -> None:
    train = Split(inputs=torch.arange(count).float()[:, None], labels=torch.arange(count) % 4)
    numbers = {"calibration": 20, "validation": 5000, "selection": selection, "seed": 3}
    fitted, held_out = hold_out(train, **numbers)
    drawn = PruningData.of_training(train, **numbers)
    names = {
        name: set(split.inputs.flatten().tolist())
        for name, split in (
            ("fitted", fitted), ("held", held_out),
            ("calibration", drawn.calibration), ("validation", drawn.validation),
            ("selection", drawn.judging),
        )
    }  # fmt: skip
    assert len(held_out) == len(names["held"]) == held
    assert names["held"] <= names["validation"] | names["selection"]
    # The images that fewest choices were made on come first.
    assert len(names["held"] & names["selection"]) == min(held, len(names["selection"]))
    assert not names["held"] & (names["fitted"] | names["calibration"])
    assert len(names["fitted"] | names["held"]) == count
    shares = held_out.labels.bincount().double() / held
    assert bool(((shares - 0.25).abs() < 0.06).all())


def test_nothing_is_held_out_of_what_calibration_needs() -> None:
    with pytest.raises(ValueError, match="of 8 training samples, 8 are for calibration"):
        hold_out(samples(8), calibration=8, validation=5, selection=0, seed=0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", -1),
        ("learning_rate", 0.0),
        ("warmup", 1.5),
        ("batch", 0),
        ("min_steps", 0),
        ("clip", 0.0),
    ],
)
def test_bad_settings_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value}; it must be"):
        TrainingSettings(**{name: value})  # type: ignore[arg-type]


def test_training_that_diverges_is_refused() -> None:
    with pytest.raises(ValueError, match="try a smaller learning_rate"):
        fit_(tiny(), samples(64), TrainingSettings(epochs=4, learning_rate=1e20))
