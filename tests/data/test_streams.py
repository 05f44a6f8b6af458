"""Samples that are read when needed are those that memory would hold, whoever reads them."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset
from torch.utils.data import Dataset as TorchDataset

from amc_env import ChannelPruningEnv, EnvSettings, PruningData, RepairSettings, Split
from amc_env.agents import search
from amc_env.data import Reading, Stream
from amc_env.data.datasets import load_dataset
from amc_env.data.holding_out import hold_out
from amc_env.env.realise import adjust
from amc_env.evaluation import Evaluator
from amc_env.models import build_model
from amc_env.randomness import random_states
from amc_env.training import TrainingSettings, fit_
from benchmarks.images import write_folder

IN_PROCESS = Reading(workers=0)
STREAMED = Reading(workers=0, hold_mib=0)


class Counted(TorchDataset[tuple[Tensor, int]]):
    """Random images that note which of them are read."""

    def __init__(self, count: int = 24) -> None:
        generator = torch.Generator().manual_seed(1)
        self.images = torch.randn(count, 1, 8, 8, generator=generator)
        self.targets = [index % 3 for index in range(count)]
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.read.append(index)
        return self.images[index], self.targets[index]

    def split(self) -> Split:
        return Split(inputs=self.images, labels=torch.tensor(self.targets))


class Noisy(Counted):
    """Images with noise from every global generator."""

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        noise = torch.rand(()) + random.random() + np.random.random()  # noqa: NPY002
        return self.images[index] + noise, self.targets[index]


def batches(stream: Stream, *, seed: int = 0) -> list[tuple[Any, Any]]:
    order = torch.randperm(len(stream), generator=torch.Generator().manual_seed(3))
    return [*stream.batches(order.tensor_split(4), torch.Generator().manual_seed(seed))]


def test_what_is_read_is_what_memory_would_hold() -> None:
    data = Counted()
    stream, split = Stream(data, reading=IN_PROCESS), data.split()
    assert len(stream) == 24
    assert stream.shapes == split.shapes
    assert torch.equal(stream.labels, split.labels)
    assert torch.equal(stream.first(5), split.first(5))
    assert torch.equal(stream.first(1), split.first(1))
    assert stream.first(0).shape == (0, 1, 8, 8)
    own, other = stream.parts(7), split.parts(7)
    assert [len(part) for part in own] == [7, 7, 7, 3]
    assert all(torch.equal(a, b) for a, b in zip(own, other, strict=True))
    assert torch.equal(own[-1], other[-1])
    assert torch.equal(own[1:3][1], other[2])
    chosen = torch.tensor([5, 3, 20])
    assert torch.equal(stream.take(chosen).held().inputs, split.take(chosen).inputs)
    assert stream.take(slice(3, 9)).labels.tolist() == split.labels[3:9].tolist()
    assert stream.digests == split.digests
    for (x, y), (other_x, other_y) in zip(batches(stream), batches(split), strict=True):
        assert torch.equal(x, other_x)
        assert torch.equal(y, other_y)


def test_splits_are_drawn_without_reading_what_they_draw() -> None:
    data = Counted()
    stream = Stream(data, reading=STREAMED)
    fitted, held_out = hold_out(stream, calibration=8, validation=6, selection=4, seed=0)
    assert len(fitted) + len(held_out) == 24
    assert data.read == []
    drawn = PruningData.of_training(stream, calibration=8, validation=6, selection=4)
    same = PruningData.of_training(data.split(), calibration=8, validation=6, selection=4)
    assert torch.equal(drawn.calibration.labels, same.calibration.labels)
    assert torch.equal(drawn.selection.first(9), same.selection.first(9))


def test_splits_that_fit_into_their_bound_are_held_and_others_read_again() -> None:
    data = Counted()
    model = build_model("digits_cnn", num_classes=3, seed=0).eval()
    outputs = {}
    for mib in (0, 1):
        data.read = []
        stream = Stream(data, reading=Reading(workers=0, hold_mib=mib))
        evaluator = Evaluator(stream.resident(), batch=10, precision="float32")
        outputs[mib] = [evaluator.outputs(model) for _ in range(3)]
        # The first sample also tells the shape.
        assert data.read.count(5) == (3 if mib == 0 else 1)
        assert torch.equal(evaluator.part(10, 20).outputs(model), outputs[mib][0][10:20])
    expected = Evaluator(data.split(), batch=10, precision="float32").outputs(model)
    assert all(torch.equal(out, expected) for found in outputs.values() for out in found)


def test_random_numbers_are_a_samples_own_whatever_reads_it() -> None:
    stream = Stream(Noisy(), reading=IN_PROCESS)
    before = random_states()["cpu"], random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    first = batches(stream)
    assert torch.equal(random_states()["cpu"], before[0])
    assert random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]  # noqa: NPY002
    torch.rand(3)
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(first, batches(stream), strict=True))
    other = batches(stream, seed=1)
    assert not any(torch.equal(a, b) for (a, _), (b, _) in zip(first, other, strict=True))
    # Two samples of a batch have different noise.
    noise = first[0][0] - Counted().images[: len(first[0][0])].mean()
    assert len(noise.mean((1, 2, 3)).unique()) == len(noise)


def test_labels_are_read_once_where_the_data_set_does_not_know_them() -> None:
    data = Counted()
    known, unknown = Stream(data), Stream(TensorDataset(data.images, torch.tensor(data.targets)))
    assert torch.equal(unknown.labels, known.labels)
    assert Stream(Subset(data, [3, 4]), reading=IN_PROCESS).labels.tolist() == [0, 1]
    assert data.read == []
    assert Stream(TensorDataset(data.images), reading=IN_PROCESS).labels is None


def test_a_loader_gives_its_data_set_and_its_workers() -> None:
    data = Counted()
    stream = Stream.of(DataLoader(data, batch_size=5, shuffle=True))
    assert torch.equal(stream.held().inputs, data.images)


def test_a_search_on_a_stream_is_that_on_a_split() -> None:
    data = Counted(48)
    model = build_model("digits_cnn", num_classes=3, seed=0).eval()
    settings = EnvSettings(
        precision="float32",
        repair=RepairSettings(calibration_batch=8, episode_samples=16, sampled_positions=4),
    )
    found = {}
    for kind in ("split", "stream"):
        whole = data.split() if kind == "split" else Stream(data, reading=STREAMED)
        parts = whole.take(slice(24)), whole.take(slice(24, 48))
        result = search(
            model,
            calibration=parts[0],
            validation=parts[1],
            budget=0.5,
            agent="uniform",
            settings=settings,
        )
        drawn = PruningData(calibration=parts[0], validation=parts[1])
        env = ChannelPruningEnv(model=model, data=drawn, settings=settings)
        train = TrainingSettings(epochs=1, batch=8, distil=1.0, precision="float32")
        adjusted = adjust(env, result.compact, train)
        found[kind] = [*result.compact.state_dict().values(), *adjusted.state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(*found.values(), strict=True))


def test_a_training_on_a_stream_is_that_on_a_split() -> None:
    data = Counted(40)
    settings = TrainingSettings(epochs=2, batch=8, shift=1, precision="float32")
    # Without augmentation as well, which draws after the seed of what is read.
    plain = TrainingSettings(epochs=1, batch=8, precision="float32")
    trained = []
    for source in (data.split(), Stream(data, reading=IN_PROCESS)):
        model = build_model("digits_cnn", num_classes=3, seed=0)
        fit_(model, source, plain)
        trained.append(model)
    first, second = (model.state_dict() for model in trained)
    assert all(torch.equal(first[name], second[name]) for name in first)
    fit_(trained[1], Stream(data, reading=IN_PROCESS), settings)


@pytest.fixture
def images(tmp_path: Path) -> Callable[..., Any]:
    write_folder(tmp_path, {"train": 12, "val": 4}, size=(20, 16))
    small = {"path": f"{tmp_path}", "size": 8, "resize": 10, "workers": 0}
    return lambda **options: load_dataset("folder", {**small, **options})


def test_a_folder_gives_its_middle_and_trainings_random_parts(
    images: Callable[..., Any],
) -> None:
    data = images()
    assert (data.classes, len(data.train), len(data.test)) == (2, 12, 4)
    assert data.train.labels.tolist() == [0] * 6 + [1] * 6
    assert data.train.shapes == ((3, 8, 8),)
    middle = images(smallest_crop=None)
    assert torch.equal(middle.train.held().inputs, data.train.held().inputs)
    every = [torch.arange(12)]
    read = [next(d.train.batches(every, torch.Generator()))[0] for d in (middle, data)]
    assert torch.equal(read[0], data.train.held().inputs)
    assert not torch.equal(read[1], read[0])


def test_the_number_of_workers_changes_no_batch(images: Callable[..., Any]) -> None:
    read = {workers: batches(images(workers=workers).train) for workers in (0, 1, 2)}
    for workers in (1, 2):
        for (x, y), (other_x, other_y) in zip(read[0], read[workers], strict=True):
            assert torch.equal(x, other_x)
            assert torch.equal(y, other_y)


def test_transforms_are_those_of_torchvisions_weights(
    images: Callable[..., Any], tmp_path: Path
) -> None:
    from torchvision.datasets import ImageFolder
    from torchvision.models import ResNet50_Weights

    data = images(weights="ResNet50_Weights.IMAGENET1K_V1")
    expected = ImageFolder(f"{tmp_path}/val", transform=ResNet50_Weights.IMAGENET1K_V1.transforms())
    assert torch.equal(data.test.first(1)[0], expected[0][0])
    with pytest.raises(ValueError, match=r"torchvision has no weights 'ResNet50_Weights.V9'"):
        images(weights="ResNet50_Weights.V9")
    with pytest.raises(ValueError, match="are not of a classifier"):
        images(weights="FCN_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1")


def test_test_images_in_the_training_folder_are_refused_without_decoding(
    images: Callable[..., Any], tmp_path: Path
) -> None:
    copy = tmp_path / "val" / "class0000" / "copy.jpg"
    copy.write_bytes((tmp_path / "train" / "class0000" / "000000.jpg").read_bytes())
    data = images()
    with pytest.raises(ValueError, match=r"1 of the .* samples are test samples too"):
        PruningData.of_training(data.train, test=data.test, calibration=6, validation=6)


def test_a_run_knows_its_folder_again(images: Callable[..., Any], tmp_path: Path) -> None:
    before, again = images().train.identity(), images().train.identity()
    assert all(torch.equal(before[name], again[name]) for name in before)
    (tmp_path / "train" / "class0000" / "000000.jpg").rename(
        tmp_path / "train" / "class0000" / "x.jpg"
    )
    other = images().train.identity()
    assert not torch.equal(before["dataset"], other["dataset"])


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_cannot_be_read_is_named_in_one_sentence(
    images: Callable[..., Any], tmp_path: Path, workers: int
) -> None:
    (tmp_path / "train" / "class0001" / "000003.jpg").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"^\S*000003.jpg cannot be read as an image \([^\n]*out$"):
        [*images(workers=workers).train.parts(4)]


def test_wrong_folders_and_data_sets_are_refused(
    images: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"there is no folder .*nowhere"):
        images(train="nowhere")
    with pytest.raises(ValueError, match="size is 8 and resize is 4; give a size of 1 or more"):
        images(resize=4)
    with pytest.raises(ValueError, match="smallest_crop is 0; give a share above 0"):
        images(smallest_crop=0)
    with pytest.raises(ValueError, match="workers is -1; give 0 or more"):
        images(workers=-1)
    (tmp_path / "val" / "class9").mkdir()
    with pytest.raises(ValueError, match="at least one image in each"):
        images()

    with pytest.raises(ValueError, match=r"samples are a Stream, .* what its held\(\) returns"):
        Split.of(Stream(Counted()))

    class Endless(IterableDataset[Tensor]):
        def __iter__(self) -> Iterator[Tensor]:
            yield torch.zeros(1)

    with pytest.raises(ValueError, match="Endless has no length or no index"):
        Stream(Endless())
    with pytest.raises(ValueError, match=r"labels have the shape \(3,\); give one for each of 24"):
        Stream(Counted(), labels=torch.zeros(3))
    ragged = [torch.randn(1, size, 4) for size in (4, 5)]
    with pytest.raises(ValueError, match=r"cannot be put together in a batch .* one shape"):
        [*Stream(ragged, reading=IN_PROCESS).parts(2)]
    with pytest.raises(ValueError, match="sample 0 holds NaN"):
        Stream([torch.full((1, 2), float("nan"))], reading=IN_PROCESS).first(1)
