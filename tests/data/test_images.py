import pickle

import pytest
import torch

from amc_env.calibration.hooks import evaluating
from amc_env.data import Images, PruningData, Split
from amc_env.evaluation import Evaluator
from amc_env.models import build_model
from amc_env.training import TrainingSettings, fit_

SCALE = {"mean": (0.4,), "deviation": (0.3,)}


def images(count: int = 40, *, seed: int = 0) -> Images:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return Images(pixels=pixels, labels=torch.arange(count) % 10, **SCALE)


def split(of: Images) -> Split:
    """The same samples by another way."""
    numbers = of.pixels.double().div(255).sub(0.4).div(0.3).float()
    return Split(inputs=numbers, labels=of.labels)


def test_they_are_read_as_the_numbers_that_they_stand_for() -> None:
    own = images()
    numbers = split(own).inputs
    torch.testing.assert_close(own.first(3), numbers[:3])
    torch.testing.assert_close(own.resident().inputs, numbers)
    assert own.resident() is own.resident()
    assert torch.equal(torch.cat(list(own.parts(7))), own.first(40))
    assert torch.equal(own.parts(7)[5], own.first(40)[35:])
    index = torch.tensor([5, 3, 39])
    read, labels = next(own.batches([index], torch.Generator()))
    assert torch.equal(read, own.first(40)[index])
    assert labels is not None
    assert labels.tolist() == [5, 3, 9]
    assert torch.equal(own.take(index).first(3), read)
    assert own.take(slice(4, 6)).labels.tolist() == [4, 5]


def test_they_need_no_labels() -> None:
    own = Images(pixels=images().pixels, **SCALE)
    assert own.take(slice(0, 4)).resident().labels is None
    assert next(own.batches([torch.tensor([2])], torch.Generator()))[1] is None
    assert own.strata.tolist() == [0] * 40
    assert own.identity().keys() == {"pixels", "scale"}


def test_they_are_kept_as_bytes() -> None:
    own = images(400)
    # Each pixel is a byte, each label eight; a number of four bytes a pixel would not fit in.
    assert len(pickle.dumps(own)) < 400 * (64 + 8) + 2000
    assert own.take(slice(0, 200)).to("cpu").pixels.dtype == torch.uint8


def test_copies_are_found_among_bytes_and_numbers() -> None:
    own = images()
    assert own.digests == own.resident().digests
    others = own.take(slice(20, 40))
    with pytest.raises(ValueError, match="5 of the calibration samples are test samples too"):
        PruningData(
            calibration=own.take(slice(0, 20)),
            validation=others,
            test=own.resident().take(slice(5)),
        )


def test_two_with_the_same_bytes_on_another_scale_are_not_the_same() -> None:
    own = images()
    other = Images(pixels=own.pixels, labels=own.labels, mean=(0.5,), deviation=(0.3,))
    differ = [
        name
        for name, tensor in own.identity().items()
        if not torch.equal(tensor, other.identity()[name])
    ]
    assert differ == ["scale"]
    assert not {*own.digests} & {*other.digests}


def test_trainings_and_evaluations_are_those_of_the_numbers() -> None:
    own = images(80)
    found = []
    for samples in (own, own.resident()):
        model = build_model("digits_cnn", seed=0)
        fit_(model, samples, TrainingSettings(epochs=2, precision="float32", shift=1, flip=True))
        judge = Evaluator(samples, batch=30, precision="float32")
        with evaluating(model):
            found.append((model.state_dict(), judge.outputs(model), judge.part(30, 60).split))
    (weights, outputs, part), (expected, expected_outputs, expected_part) = found
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())
    assert torch.equal(outputs, expected_outputs)
    assert torch.equal(part.first(30), expected_part.first(30))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixels": torch.zeros(4, 1, 8, 8)}, r"images are torch.float32 \(4, 1, 8, 8\); give byt"),
        ({"pixels": torch.zeros(4, 8, 8).byte()}, r"images are torch.uint8 \(4, 8, 8\); give byt"),
        ({"pixels": torch.zeros(0, 1, 8, 8).byte()}, "at least one image"),
        (
            {"labels": torch.zeros(3).long()},
            r"labels have the shape \(3,\); give one for each of 4",
        ),
        ({"mean": (0.1, 0.2)}, r"images have 1 channels, but mean is \(0.1, 0.2\)"),
    ],
)
def test_what_are_no_images_are_refused(change: dict[str, object], message: str) -> None:
    good = {"pixels": torch.zeros(4, 1, 8, 8).byte(), "labels": torch.zeros(4).long(), **SCALE}
    Images(**good)
    with pytest.raises(ValueError, match=message):
        Images(**{**good, **change})
