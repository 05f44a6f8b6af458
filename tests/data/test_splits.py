import pytest
import torch
from pruning import samples

from amc_env import PruningData, Split
from amc_env.data.splits import stratified_order


def test_splits_of_training_data_are_apart_stratified_and_seeded() -> None:
    train = samples(200)
    first, again, other = (
        PruningData.of_training(train, calibration=40, validation=80, seed=s) for s in (0, 0, 1)
    )
    assert torch.equal(first.validation.inputs, again.validation.inputs)
    assert not torch.equal(first.validation.inputs, other.validation.inputs)
    for split, count in ((first.calibration, 10), (first.validation, 20)):
        assert all(abs(n - count) <= 1 for n in split.labels.bincount().tolist())
    seen = torch.cat([first.calibration.inputs, first.validation.inputs]).flatten(1)
    assert len(seen.unique(dim=0)) == 120


def test_validation_gets_what_there_is() -> None:
    data = PruningData.of_training(samples(50), calibration=20)
    assert (len(data.calibration), len(data.validation)) == (20, 30)


def test_every_stretch_of_the_order_has_the_classes_in_their_shares() -> None:
    labels = torch.cat([torch.zeros(90), torch.ones(10)]).long()
    drawn = labels[stratified_order(labels, seed=3)[:50]]
    assert 4 <= int(drawn.sum()) <= 6


@pytest.mark.parametrize("leak", ["calibration", "validation"])
def test_test_samples_among_those_of_choices_are_refused(leak: str) -> None:
    splits = {"calibration": samples(12), "validation": samples(12, seed=1)}
    test = splits[leak].take(torch.tensor([3, 5]))
    with pytest.raises(ValueError, match=f"2 of the {leak} samples are test samples too"):
        PruningData(**splits, test=test)
    PruningData(**splits, test=samples(5, seed=2))


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        (torch.zeros(0, 3), torch.zeros(0).long(), r"inputs have the shape \(0, 3\)"),
        (torch.zeros(4), torch.zeros(4).long(), r"inputs have the shape \(4,\)"),
        (torch.zeros(4, 2).long(), torch.zeros(4).long(), "type torch.int64"),
        (torch.zeros(4, 2), torch.zeros(3).long(), r"labels have the shape \(3,\)"),
        (torch.zeros(4, 2), torch.zeros(4), "type torch.float32; give one whole number"),
        (torch.zeros(2, 2), torch.tensor([0, -1]), "label -1 is negative"),
        (torch.tensor([[0.0], [float("nan")]]), torch.zeros(2).long(), "sample 1 holds NaN"),
    ],
)
def test_bad_samples_are_refused(inputs: torch.Tensor, labels: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Split(inputs=inputs, labels=labels)


def test_samples_of_another_shape_are_refused() -> None:
    other = Split(inputs=torch.zeros(4, 1, 9, 9), labels=torch.zeros(4).long())
    with pytest.raises(ValueError, match="samples have different shapes"):
        PruningData(calibration=samples(4), validation=other)
    with pytest.raises(ValueError, match="cannot be drawn from 10 training samples"):
        PruningData.of_training(samples(10), calibration=10)


def test_a_loader_becomes_a_split() -> None:
    whole = samples(10)
    dataset = torch.utils.data.TensorDataset(whole.inputs, whole.labels)
    loader = torch.utils.data.DataLoader(dataset, batch_size=4)
    assert torch.equal(Split.of(loader).inputs, whole.inputs)
    assert torch.equal(Split.of((whole.inputs, whole.labels)).labels, whole.labels)
    assert Split.of(whole) is whole
    with pytest.raises(ValueError, match="neither a pair of tensors"):
        Split.of([whole.inputs])
