"""Tensors that are kept in files, and files that are missing, damaged, too large or refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from amc_env.tensor_store import INDEX_FILE, TensorStore

KEY = "0123456789abcdef and more"
PARTS = {
    "a": {"x": torch.arange(6.0).view(2, 3), "y": torch.tensor([3])},
    "b": {"x": torch.randn(4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))},
}


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path: Path, said: list[str]) -> TensorStore:
    made = TensorStore(tmp_path / "kept", max_bytes=100, tell=said.append)
    made.write(KEY, {name: lambda part=part: part for name, part in PARTS.items()}, size=100)
    return made


def place(tmp_path: Path) -> Path:
    return tmp_path / "kept" / KEY[:16]


def is_equal(found: dict[str, dict[str, Tensor]] | None) -> bool:
    assert found is not None
    assert {name: set(part) for name, part in found.items()} == {"a": {"x", "y"}, "b": {"x"}}
    return all(torch.equal(found[n][k], x) for n, part in PARTS.items() for k, x in part.items())


def test_what_is_kept_is_given_back(store: TensorStore, said: list[str]) -> None:
    assert is_equal(store.read(KEY))
    assert store.read("another key") is None
    assert said == []


def test_a_key_that_begins_alike_is_told_from_it(store: TensorStore, said: list[str]) -> None:
    assert store.read(KEY[:16] + " and other") is None
    assert len(said) == 1
    assert "has another key" in said[0]


def test_what_is_too_large_is_not_kept(tmp_path: Path, said: list[str]) -> None:
    small = TensorStore(tmp_path / "kept", max_bytes=2**29, tell=said.append)
    small.write(KEY, {"a": lambda: PARTS["a"]}, size=2**31)
    assert not (tmp_path / "kept").exists()
    assert len(said) == 1
    assert "would take 2.0 GiB, more than the 0.5 that may be kept" in said[0]


def test_a_folder_that_cannot_be_written_to_is_told_of(tmp_path: Path, said: list[str]) -> None:
    (tmp_path / "file").write_text("")
    refused = TensorStore(tmp_path / "file", max_bytes=100, tell=said.append)
    refused.write(KEY, {"a": lambda: PARTS["a"]}, size=8)
    assert len(said) == 1
    assert "nothing can be kept in" in said[0]


def test_a_write_that_was_cut_off_leaves_what_was_kept_before(
    store: TensorStore, tmp_path: Path, said: list[str]
) -> None:
    def fails() -> dict[str, Tensor]:
        raise KeyboardInterrupt

    for key in (KEY, "another key"):
        with pytest.raises(KeyboardInterrupt):
            store.write(key, {"a": lambda: PARTS["b"], "b": fails}, size=8)
    assert is_equal(store.read(KEY))
    assert store.read("another key") is None
    assert said == []
    assert not list((tmp_path / "kept").rglob("*.part"))


def test_two_who_write_at_once_leave_what_one_of_them_wrote(
    store: TensorStore, said: list[str]
) -> None:
    def meanwhile() -> dict[str, Tensor]:
        store.write(KEY, {name: lambda part=part: part for name, part in PARTS.items()}, size=100)
        return PARTS["b"]

    store.write(KEY, {"a": lambda: {**PARTS["a"], "y": torch.tensor([4])}, "b": meanwhile}, size=8)
    found = store.read(KEY)
    assert said == []
    assert found is not None
    assert found["a"]["y"].tolist() == [4]


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


@pytest.mark.parametrize("name", [INDEX_FILE, "0-*.safetensors", "1-*.safetensors"])
@pytest.mark.parametrize("damage", [flipped, cut_off, Path.unlink, lambda p: p.write_bytes(b"")])
def test_damage_is_told_of_and_nothing_is_used(
    store: TensorStore,
    tmp_path: Path,
    said: list[str],
    name: str,
    damage: Callable[[Path], None],
) -> None:
    (damaged,) = place(tmp_path).glob(name)
    damage(damaged)
    assert store.read(KEY) is None
    if name == INDEX_FILE and damage is Path.unlink:
        assert said == []
        return
    assert len(said) == 1
    assert "is damaged" in said[0]
    store.write(KEY, {name: lambda part=part: part for name, part in PARTS.items()}, size=100)
    assert is_equal(store.read(KEY))


def test_an_index_whose_names_changed_is_told_of(
    store: TensorStore, tmp_path: Path, said: list[str]
) -> None:
    index = json.loads((place(tmp_path) / INDEX_FILE).read_text())
    index["files"] = dict(zip("ba", index["files"].values(), strict=True))
    (place(tmp_path) / INDEX_FILE).write_text(json.dumps(index))
    assert store.read(KEY) is None
    assert f"{INDEX_FILE} has another key or differs from its checksum" in said[0]
