import io
import re
import time
from dataclasses import replace
from math import log

import pytest
import torch
from pruning import Tiny, samples, tiny
from torch import Tensor, nn

from amc_env import PruningData, Split
from amc_env.augmentation import augmented
from amc_env.data.datasets import digits
from amc_env.data.holding_out import hold_out
from amc_env.evaluation import Evaluator
from amc_env.models import build_model
from amc_env.tasks.classification import distillation_loss
from amc_env.training import (
    Training,
    TrainingSettings,
    expected_seconds,
    fit_,
    held_out_loss,
    with_measured_precision,
)


def test_training_learns_and_the_same_seed_gives_the_same_weights() -> None:
    data = digits()
    models = [build_model("digits_cnn", seed=0) for _ in range(2)]
    losses: list[float] = []
    for model in models:
        settings = TrainingSettings(epochs=3, precision="float32")
        fit_(model, data.train, settings, on_epoch=lambda _, x: losses.append(x))
        assert not model.training
    assert losses[2] < 0.5 * losses[0]
    assert losses[:3] == losses[3:]
    assert Evaluator(data.test, precision="float32").evaluate(models[0]) > 0.9
    for mine, other in zip(*(m.parameters() for m in models), strict=True):
        assert torch.equal(mine, other)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_mirrored_images_are_the_originals_read_from_the_right() -> None:
    images = samples(64).inputs
    changed = augmented(images, generator(), shift=0, flip=True)
    is_mirrored = [torch.equal(a, b.flip(2)) for a, b in zip(changed, images, strict=True)]
    is_same = [torch.equal(a, b) for a, b in zip(changed, images, strict=True)]
    assert all(a != b for a, b in zip(is_mirrored, is_same, strict=True))
    assert 16 < sum(is_mirrored) < 48


def test_every_image_is_moved_by_a_shift_of_its_own_with_zeros_behind() -> None:
    images, seen, differing = samples(8).inputs, set(), 0
    ways = [(down, right) for down in range(-2, 3) for right in range(-2, 3)]
    all_moved = {way: moved(images, *way) for way in ways}
    for seed in range(20):
        changed = augmented(images, generator(seed), shift=2, flip=False)
        found = [
            [way for way, expected in all_moved.items() if torch.equal(image, expected[number])]
            for number, image in enumerate(changed)
        ]
        assert all(len(fitting) == 1 for fitting in found)
        differing += len({way for (way,) in found}) > 1
        seen |= {way for (way,) in found}
    assert differing == 20
    assert seen == set(ways)


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
    assert torch.equal(augmented(before, generator(), shift=0, flip=False), before)
    fit_(model, data, TrainingSettings(epochs=1, shift=2, flip=True))
    assert torch.equal(data.inputs, before)
    untouched = [p.clone() for p in model.parameters()]
    fit_(model, data, TrainingSettings(epochs=0))
    assert all(torch.equal(a, b) for a, b in zip(untouched, model.parameters(), strict=True))


def test_training_with_augmentation_reads_the_augmented_images() -> None:
    seen: list[torch.Tensor] = []
    model, data = tiny(), samples(64)
    hook = model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    fit_(model, data, TrainingSettings(epochs=4, flip=True, precision="float32"))
    hook.remove()
    assert not all(any(torch.equal(image, own) for own in data.inputs) for image in seen[0])


@pytest.mark.parametrize(
    ("warmup", "expected"), [(0.0, [1.0, 0.854, 0.5, 0.146]), (0.5, [1 / 3, 0.569, 0.5, 0.146])]
)
def test_the_learning_rate_rises_in_the_warm_up_and_falls_along_a_cosine(
    warmup: float, expected: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    # (1 + cos(pi t / 4)) / 2 for t = 0, 1, 2, 3, times 1/3 and 2/3 in the first two of four steps
    settings = TrainingSettings(
        epochs=2, learning_rate=1.0, batch=8, warmup=warmup, precision="float32"
    )
    assert rates(monkeypatch, settings, 16) == pytest.approx(expected, abs=1e-3)


def test_the_learning_rate_falls_in_steps_where_milestones_are_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = TrainingSettings(
        epochs=4, learning_rate=1.0, batch=8, milestones=[1, 3], precision="float32"
    )
    assert rates(monkeypatch, settings, 16) == pytest.approx([1, 1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01])
    assert rates(monkeypatch, replace(settings, epochs=0), 16) == []


def test_a_long_gradient_is_scaled_down(monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[float] = []
    step = torch.optim.SGD.step

    def spy(self: torch.optim.SGD) -> None:
        grads = [p.grad.flatten() for g in self.param_groups for p in g["params"]]
        norms.append(float(torch.cat(grads).norm()))
        step(self)

    monkeypatch.setattr(torch.optim.SGD, "step", spy)
    for clip in (None, 1e-3):
        fit_(tiny(), samples(16), TrainingSettings(epochs=1, clip=clip, precision="float32"))
    assert norms[0] > 0.01
    assert norms[1] == pytest.approx(1e-3, rel=1e-2)


def test_few_images_make_smaller_batches_where_that_is_asked() -> None:
    assert TrainingSettings(batch=64).steps(200) == 3
    fine = TrainingSettings(batch=64, min_steps=16)
    assert [fine.steps(n) for n in (5, 64, 200, 8000)] == [1, 8, 16, 125]


class Reading(nn.Module):
    """Tells which samples are read by their only number, in training and in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[int] = []
        self.linear = nn.Linear(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        self.read += [int(n) for n in x[:, 0]]
        scores: Tensor = self.linear(x / 40)
        return scores


def test_in_short_epochs_all_samples_come_once_before_any_comes_again() -> None:
    split = Split(inputs=torch.arange(40.0)[:, None], labels=torch.arange(40) % 2)
    settings = TrainingSettings(epochs=5, samples=16, batch=5, precision="float32")
    assert settings.steps(40) == 3
    assert settings.steps(11) == replace(settings, samples=0).steps(11)
    model = Reading()
    fit_(model, split, settings)
    first, second = model.read[:40], model.read[40:]
    assert sorted(first) == sorted(second) == list(range(40))
    assert first != second
    other = Reading()
    fit_(other, split, settings, seed=1)
    assert other.read[:40] != first
    model.read.clear()
    held_out_loss(model, split, settings)
    assert sorted(model.read) == list(range(40))
    with pytest.raises(ValueError, match="samples is -1; it must be at least 0"):
        TrainingSettings(samples=-1)


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
        ("milestones", [40, 30]),
        ("milestones", [0]),
        ("warmup", 1.5),
        ("batch", 0),
        ("min_steps", 0),
        ("clip", 0.0),
        ("momentum", 1.0),
        ("weight_decay", -0.1),
        ("smoothing", 1.0),
        ("distil", 1.5),
        ("temperature", 0.0),
        ("shift", -1),
    ],
)
def test_bad_settings_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{name} is {value}; it must be")):
        TrainingSettings(**{name: value})  # type: ignore[arg-type]


def test_a_precision_that_does_not_exist_is_refused() -> None:
    expected = "precision is 'half'; it must be one of auto, float32, bfloat16"
    with pytest.raises(ValueError, match=expected):
        TrainingSettings(precision="half")  # type: ignore[arg-type]


def rates(monkeypatch: pytest.MonkeyPatch, settings: TrainingSettings, count: int) -> list[float]:
    """The learning rates of the steps of a training."""
    seen: list[float] = []
    step = torch.optim.SGD.step

    def spy(self: torch.optim.SGD) -> None:
        seen.append(self.param_groups[0]["lr"])
        step(self)

    monkeypatch.setattr(torch.optim.SGD, "step", spy)
    fit_(tiny(), samples(count), settings)
    return seen


def test_smaller_batches_take_smaller_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    # 32 samples are a batch of 32, or four of 8 where four steps are asked for: a quarter the rate.
    whole = TrainingSettings(epochs=1, batch=32, precision="float32")
    parts = TrainingSettings(epochs=1, batch=32, min_steps=4, precision="float32")
    assert rates(monkeypatch, whole, 32)[0] == pytest.approx(0.05)
    assert rates(monkeypatch, parts, 32)[0] == pytest.approx(0.05 / 4)
    # Samples that are left over make batches larger, and leave the rate as it was given.
    assert rates(monkeypatch, whole, 40)[0] == pytest.approx(0.05)


def test_distillation_by_hand() -> None:
    # At temperature 2: the teacher's scores 2 ln 3 and 0 are 3/4 and 1/4, the student's 1/2 each.
    # The divergence is 3/4 ln 3/2 + 1/4 ln 1/2, times 4.
    teacher, own = torch.tensor([[2 * log(3), 0.0]]), torch.tensor([[5.0, 5.0]])
    expected = 4 * (0.75 * log(1.5) + 0.25 * log(0.5))
    assert float(distillation_loss(own, teacher, temperature=2.0)) == pytest.approx(expected)
    assert float(distillation_loss(teacher, teacher, temperature=2.0)) == pytest.approx(0.0)


def test_a_student_comes_closer_to_its_teacher_and_leaves_it_as_it_was() -> None:
    data, teacher, student = samples(128), tiny(), tiny()
    for parameter in student.parameters():
        nn.init.normal_(parameter, std=0.3)
    before = [p.clone() for p in (*teacher.parameters(), *teacher.buffers())]

    def apart() -> float:
        with torch.no_grad():
            scores = student(data.inputs), teacher(data.inputs)
        return float(distillation_loss(*scores, temperature=1.0))

    began = apart()
    settings = TrainingSettings(epochs=20, batch=16, distil=1.0, precision="float32")
    fit_(student, data, settings, teacher=teacher)
    assert apart() < 0.1 * began
    after = (*teacher.parameters(), *teacher.buffers())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(p.grad is None for p in teacher.parameters())


def test_a_share_of_distillation_mixes_both_losses() -> None:
    losses = []
    for share in (0.0, 0.25, 1.0):
        settings = TrainingSettings(
            epochs=1, batch=64, distil=share, learning_rate=1e-9, precision="float32"
        )
        teacher = tiny()
        nn.init.zeros_(teacher.head.weight)
        fit_(tiny(), samples(64), settings, teacher=teacher,
             on_epoch=lambda _, x: losses.append(x))  # fmt: skip
    assert losses[1] == pytest.approx(0.75 * losses[0] + 0.25 * losses[2], rel=1e-5)
    assert losses[0] != pytest.approx(losses[2], rel=0.1)


def test_without_a_teacher_nothing_can_be_distilled() -> None:
    with pytest.raises(ValueError, match=r"distil is 0.5, but there is no teacher"):
        fit_(tiny(), samples(16), TrainingSettings(epochs=1, distil=0.5, precision="float32"))


def test_the_expected_time_is_that_of_all_steps_and_changes_nothing() -> None:
    class Slow(Tiny):
        def forward(self, x: Tensor) -> Tensor:
            time.sleep(0.05 if self.training else 0.0)
            return super().forward(x)

    model, data = Slow(), samples(64)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    settings = TrainingSettings(epochs=10, batch=16, precision="float32")
    seconds = expected_seconds(model, data, settings)
    # 10 epochs of 4 steps of at least 50 ms
    assert seconds >= 2.0
    assert expected_seconds(model, data, replace(settings, epochs=0)) == 0.0
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[name]) for name, v in model.state_dict().items())


def test_a_network_is_not_changed_by_measuring_its_precision() -> None:
    model, data = tiny(), samples(64)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    settings = with_measured_precision(TrainingSettings(epochs=1), model, data)
    assert settings.precision in ("float32", "bfloat16")
    assert replace(settings, precision="auto") == TrainingSettings(epochs=1)
    assert all(torch.equal(v, before[name]) for name, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not model.training
    stated = TrainingSettings(epochs=1, precision="bfloat16")
    assert with_measured_precision(stated, model, data) == stated


def test_training_in_bfloat16_learns_too() -> None:
    losses: list[float] = []
    settings = TrainingSettings(epochs=8, batch=16, precision="bfloat16")
    fit_(tiny(), samples(64), settings, on_epoch=lambda _, x: losses.append(x))
    assert losses[-1] < losses[0]


def test_training_that_diverges_is_refused() -> None:
    with pytest.raises(ValueError, match="try a smaller learning_rate"):
        fit_(tiny(), samples(64), TrainingSettings(epochs=4, learning_rate=1e20))


@pytest.mark.parametrize("in_epoch", [0, 24])
@pytest.mark.parametrize("stopped_after", [1, 2, 3])
def test_a_training_goes_on_from_its_state_to_the_same_weights(
    stopped_after: int, in_epoch: int
) -> None:
    settings = TrainingSettings(
        epochs=3, samples=in_epoch, warmup=0.3, shift=1, flip=True, distil=0.5, precision="float32"
    )

    def begun() -> Training:
        torch.manual_seed(5)
        # Dropout draws from the global generator.
        model = nn.Sequential(tiny(), nn.Dropout(0.3))
        torch.manual_seed(5)
        return Training(model, samples(64), settings, teacher=tiny(), seed=1)

    kept: list[bytes] = []

    def keep(_: int, __: float) -> None:
        file = io.BytesIO()
        torch.save(whole.state(), file)
        kept.append(file.getvalue())

    whole = begun()
    whole.run_(keep)
    drawn = torch.rand(3)
    again = begun()
    again.restore_(torch.load(io.BytesIO(kept[stopped_after - 1]), weights_only=True))
    assert again.epoch == stopped_after
    again.run_()
    for one, other in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(torch.rand(3), drawn)
