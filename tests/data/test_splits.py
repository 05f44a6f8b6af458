import pytest
import torch
from pruning import samples

from amc_env import PruningData, Split
from amc_env.data.splits import stratified_order


def test_splits_of_training_data_are_apart_stratified_and_seeded() -> None:
    train = samples(200)
    first, again, other = (
        PruningData.of_training(train, calibration=40, validation=80, selection=20, seed=s)
        for s in (0, 0, 1)
    )
    splits = [first.calibration, first.validation, selected(first)]
    assert torch.equal(first.validation.inputs, again.validation.inputs)
    assert torch.equal(selected(first).inputs, selected(again).inputs)
    assert not torch.equal(first.validation.inputs, other.validation.inputs)
    for split, count in zip(splits, (10, 20, 5), strict=True):
        assert all(abs(n - count) <= 1 for n in split.labels.bincount().tolist())
    seen = torch.cat([split.inputs for split in splits]).flatten(1)
    assert len(seen.unique(dim=0)) == 140


def selected(data: PruningData) -> Split:
    assert data.selection is not None
    return data.selection


@pytest.mark.parametrize(
    ("count", "numbers", "sizes"),
    [
        (50, {"calibration": 20}, (20, 20, 10)),
        (50, {"calibration": 20, "validation": 5}, (20, 5, 10)),
        (50, {"calibration": 20, "validation": 5, "selection": 2}, (20, 5, 2)),
        (50, {"calibration": 20, "selection": 0}, (20, 30, None)),
        (22, {"calibration": 20}, (20, 2, None)),
        (23, {"calibration": 20}, (20, 2, 1)),
    ],
)
def test_few_samples_are_shared_out(
    count: int, numbers: dict[str, int], sizes: tuple[int, int, int | None]
) -> None:
    data = PruningData.of_training(samples(count), **numbers)
    found = None if data.selection is None else len(data.selection)
    assert (len(data.calibration), len(data.validation), found) == sizes


@pytest.mark.parametrize(("asked", "got"), [(0, None), (20, None), (26, 26), (99, 35)])
def test_adjustment_gets_the_calibration_samples_and_some_that_no_split_has(
    asked: int, got: int | None
) -> None:
    sizes = {"calibration": 20, "validation": 10, "selection": 5}
    data = PruningData.of_training(samples(50), **sizes, adjustment=asked)
    if got is None:
        assert data.adjustment is None
        assert data.adjusting is data.calibration
        return
    assert data.adjusting is data.adjustment
    digests = {*data.adjusting.digests}
    assert len(digests) == got
    assert digests >= {*data.calibration.digests}
    assert not digests & {*data.validation.digests, *data.judging.digests}


def test_the_selection_split_does_not_change_what_validation_gets() -> None:
    train = samples(200)
    with_it, without = (
        PruningData.of_training(train, calibration=40, validation=80, selection=n) for n in (20, 0)
    )
    assert torch.equal(with_it.validation.inputs, without.validation.inputs)


def test_copies_of_other_samples_are_left_out_of_the_selection_split() -> None:
    once = samples(30)
    twice = once.take(torch.arange(60) % 30)
    data = PruningData.of_training(twice, calibration=6, validation=20, selection=18)
    used = {*data.calibration.digests, *data.validation.digests}
    assert 0 < len(selected(data)) < 18
    assert not used & {*selected(data).digests}
    with pytest.raises(ValueError, match="each of the 2 samples drawn for selection is a copy"):
        PruningData.of_training(once.take(torch.zeros(9).long()), calibration=3, selection=2)


def test_selection_judges_and_without_it_validation() -> None:
    both = PruningData(
        calibration=samples(4), validation=samples(4, seed=1), selection=samples(4, seed=2)
    )
    assert both.judging is both.selection
    alone = PruningData(calibration=samples(4), validation=samples(4, seed=1))
    assert alone.judging is alone.validation


@pytest.mark.parametrize("other", ["calibration", "validation", "adjustment"])
def test_a_selection_split_that_shares_samples_is_refused(other: str) -> None:
    names = ("calibration", "validation", "adjustment")
    splits = {name: samples(12, seed=seed) for seed, name in enumerate(names)}
    overlapping = splits[other].take(torch.tensor([3, 5, 7]))
    with pytest.raises(ValueError, match=f"3 of the {other} samples are selection samples too"):
        PruningData(**splits, selection=overlapping)


def test_every_stretch_of_the_order_has_the_classes_in_their_shares() -> None:
    labels = torch.cat([torch.zeros(90), torch.ones(10)]).long()
    drawn = labels[stratified_order(labels, seed=3)[:50]]
    assert 4 <= int(drawn.sum()) <= 6


@pytest.mark.parametrize("leak", ["calibration", "validation", "selection", "adjustment"])
def test_test_samples_among_those_of_choices_are_refused(leak: str) -> None:
    names = ("calibration", "validation", "selection", "adjustment")
    splits = {name: samples(12, seed=seed) for seed, name in enumerate(names)}
    test = splits[leak].take(torch.tensor([3, 5]))
    with pytest.raises(ValueError, match=f"2 of the {leak} samples are test samples too"):
        PruningData(**splits, test=test)
    PruningData(**splits, test=samples(5, seed=4))


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        (torch.zeros(0, 3), torch.zeros(0).long(), r"inputs have the shape \(0, 3\)"),
        (torch.zeros(4), torch.zeros(4).long(), r"inputs have the shape \(4,\)"),
        (torch.zeros(4, 2).long(), torch.zeros(4).long(), "type torch.int64"),
        (torch.zeros(4, 2), torch.zeros(3).long(), r"labels have the shape \(3,\)"),
        (torch.zeros(4, 2), torch.tensor(3), r"labels have the shape \(\); give one for each of 4"),
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
    with pytest.raises(ValueError, match="samples have different shapes"):
        PruningData(calibration=samples(4), validation=samples(4, seed=1), test=other)


@pytest.mark.parametrize(
    "numbers", [{"calibration": 10}, {"validation": 0}, {"selection": -1}, {"adjustment": -1}]
)
def test_numbers_that_cannot_be_drawn_are_refused(numbers: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="cannot be drawn from 10 training samples"):
        PruningData.of_training(samples(10), **{"calibration": 5, **numbers})


def test_a_loader_becomes_a_split() -> None:
    whole = samples(10)
    dataset = torch.utils.data.TensorDataset(whole.inputs, whole.labels)
    loader = torch.utils.data.DataLoader(dataset, batch_size=4)
    assert torch.equal(Split.of(loader).inputs, whole.inputs)
    assert torch.equal(Split.of((whole.inputs, whole.labels)).labels, whole.labels)
    assert Split.of(whole) is whole
    with pytest.raises(ValueError, match="neither a pair of tensors"):
        Split.of([whole.inputs, 3])
