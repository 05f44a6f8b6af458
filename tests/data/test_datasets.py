import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10

from amc_env.data.datasets import DATASETS, digits, load_dataset

IMAGES, LABELS = np.zeros((4, 5, 6, 3), np.uint8), np.arange(4)
PLAIN = {"mean": (0.0, 0.0, 0.0), "deviation": (1.0, 1.0, 1.0)}


def test_digits_are_stratified_and_apart() -> None:
    data = digits()
    assert len(data.train) + len(data.test) == 1797
    assert data.classes == 10
    assert max(data.test.labels.bincount()) - min(data.test.labels.bincount()) <= 6
    whole = torch.cat([data.train.inputs, data.test.inputs]).flatten(1)
    assert len(whole.unique(dim=0)) == 1797


def test_data_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="data set 'digit' does not exist; the nearest is 'digits'"
    ):
        load_dataset("digit")
    with pytest.raises(ValueError, match=r"no .npz file .*none.npz"):
        load_dataset("arrays", {"path": f"{tmp_path}/none.npz"})
    with pytest.raises(ValueError, match=r"no folder .*train"):
        load_dataset("image_folder", {"path": f"{tmp_path}"})
    with pytest.raises(ValueError, match="'digits' cannot take 'shuffle'; the nearest option is"):
        load_dataset("digits", {"shuffle": True})
    with pytest.raises(ValueError, match="data set 'arrays' needs the option path"):
        load_dataset("arrays")
    downloaded = {"cifar10", "cifar100", "mnist", "fashion_mnist"}
    folders = {"image_folder", "folder", "yolo"}
    assert set(DATASETS) == {"digits", "arrays", "synthetic", *folders, *downloaded}


def write_image(path: Path, colour: tuple[int, int, int], size: tuple[int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def test_folders_of_images_are_classes_in_their_order(tmp_path: Path) -> None:
    for part in ("train", "test"):
        write_image(tmp_path / part / "cat" / "one.png", (255, 0, 51), (9, 7))
        write_image(tmp_path / part / "dog" / "one.png", (0, 102, 0), (5, 12))
    write_image(tmp_path / "train" / "dog" / "two.png", (0, 204, 0), (8, 8))
    data = load_dataset("image_folder", {"path": f"{tmp_path}", "size": 6, **PLAIN})
    assert data.train.first(3).shape == (3, 3, 6, 6)
    assert data.train.labels.tolist() == [0, 1, 1]
    assert data.test.labels.tolist() == [0, 1]
    torch.testing.assert_close(
        data.train.first(3)[:, :, 2, 3].T,
        torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.4, 0.8], [0.2, 0.0, 0.0]]),
    )


def test_folders_of_other_classes_are_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "train" / "cat" / "one.png", (0, 0, 0), (4, 4))
    write_image(tmp_path / "train" / "dog" / "one.png", (0, 0, 0), (4, 4))
    write_image(tmp_path / "test" / "dog" / "one.png", (0, 0, 0), (4, 4))
    with pytest.raises(ValueError, match="different classes; cat is in one of them only"):
        load_dataset("image_folder", {"path": f"{tmp_path}"})


def test_cifar_is_read_as_torchvision_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    pixels = np.zeros((2, 3, 32, 32), np.uint8)
    pixels[1, 2, 4, 5] = 255

    def written(name: str, content: dict[str, object]) -> str:
        (folder / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    flat = pixels.reshape(2, -1)
    monkeypatch.setattr(
        CIFAR10, "train_list", [["a", written("a", {"data": flat, "labels": [3, 7]})]]
    )
    monkeypatch.setattr(
        CIFAR10, "test_list", [["b", written("b", {"data": flat[1:], "labels": [1]})]]
    )
    names = {"label_names": ["plane"]}
    monkeypatch.setitem(CIFAR10.meta, "md5", written("batches.meta", names))
    data = load_dataset("cifar10", {"path": f"{tmp_path}", **PLAIN})
    assert torch.equal(data.train.first(3), torch.from_numpy(pixels) / 255)
    assert data.train.labels.tolist() == [3, 7]
    assert data.test.first(1)[0, 2, 4, 5] == 1.0
    assert data.test.labels.tolist() == [1]


@pytest.mark.parametrize(
    ("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")]
)
def test_grey_images_are_read_as_torchvision_keeps_them(
    tmp_path: Path, name: str, folder: str
) -> None:
    raw = tmp_path / folder / "raw"
    raw.mkdir(parents=True)
    pixels = np.zeros((3, 28, 28), np.uint8)
    pixels[2, 4, 5] = 255
    for part, count in (("train", 3), ("t10k", 2)):
        # The magic number says bytes and the number of dimensions.
        sizes = np.array([0x0803, count, 28, 28], ">i4").tobytes()
        (raw / f"{part}-images-idx3-ubyte").write_bytes(sizes + pixels[-count:].tobytes())
        sizes = np.array([0x0801, count], ">i4").tobytes()
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(sizes + bytes(range(count)))
    data = load_dataset(name, {"path": f"{tmp_path}", "mean": (0.5,), "deviation": (0.5,)})
    assert data.train.first(3).shape == (3, 1, 28, 28)
    assert data.train.first(3)[2, 0, 4, 5] == 1.0
    assert data.train.first(3).sum() == -(3 * 28 * 28 - 2)
    assert data.test.labels.tolist() == [0, 1]


def test_original_test_images_are_marked(tmp_path: Path) -> None:
    parts = {"train_x": IMAGES, "train_y": LABELS, "test_x": IMAGES, "test_y": LABELS}
    marks = np.array([True, False, True, True])
    path = tmp_path / "some.npz"
    np.savez(path, test_lossless=marks, **parts)
    found = load_dataset("arrays", {"path": f"{path}"}).to("cpu").test_originals
    assert found is not None
    assert found.tolist() == marks.tolist()
    np.savez(path, test_lossless=~np.zeros(4, bool), **parts)
    assert load_dataset("arrays", {"path": f"{path}"}).test_originals is None
    np.savez(path, test_lossless=marks[:3], **parts)
    with pytest.raises(
        ValueError, match=r"test_originals is torch.bool \(3,\); give a bool for each"
    ):
        load_dataset("arrays", {"path": f"{path}"})


def test_a_download_that_fails_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CIFAR10, "url", (tmp_path / "nowhere.tar.gz").as_uri())
    with pytest.raises(ValueError, match=r"CIFAR10 is not in .* could not be downloaded \("):
        load_dataset("cifar10", {"path": f"{tmp_path}"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_x": IMAGES / 2}, r"images are float64 \(4, 5, 6, 3\); give bytes"),
        ({"test_x": IMAGES[0]}, r"images are uint8 \(5, 6, 3\); give bytes"),
        ({"train_y": LABELS[:3]}, r"labels have the shape \(3,\); give one for each of 4 images"),
        ({"test_x": IMAGES[..., :1]}, "images have 1 channels, but mean is"),
    ],
)
def test_arrays_that_are_no_images_are_refused(
    tmp_path: Path, change: dict[str, np.ndarray], message: str
) -> None:
    parts = {"train_x": IMAGES, "train_y": LABELS, "test_x": IMAGES, "test_y": LABELS}
    np.savez(tmp_path / "good.npz", **parts)
    assert load_dataset("arrays", {"path": f"{tmp_path}/good.npz"}).train.shapes == ((3, 5, 6),)
    np.savez(tmp_path / "bad.npz", **{**parts, **change})
    with pytest.raises(ValueError, match=message):
        load_dataset("arrays", {"path": f"{tmp_path}/bad.npz"})


def test_synthetic_classes_can_be_told_apart_and_are_the_same_every_time() -> None:
    data = load_dataset("synthetic", {"classes": 6, "size": 8, "train": 60, "test": 30})
    assert (data.classes, data.train.inputs.shape, len(data.test)) == (6, (60, 3, 8, 8), 30)
    means = torch.stack([data.train.inputs[data.train.labels == c].mean(0) for c in range(6)])
    distances = torch.cdist(data.test.inputs.flatten(1), means.flatten(1))
    assert torch.equal(distances.argmin(1), data.test.labels)
    again = load_dataset("synthetic", {"classes": 6, "size": 8, "train": 60, "test": 30})
    assert torch.equal(again.test.inputs, data.test.inputs)
    with pytest.raises(ValueError, match="5 training and 100 test images of 20 classes"):
        load_dataset("synthetic", {"train": 5})
