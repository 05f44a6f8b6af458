"""The sequential repair, beside the tests on solutions in ``test_plan.py``."""

import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from structure.networks import NETWORKS, build
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from amc_env import ChannelGraph
from amc_env.calibration import rows as unfolding
from amc_env.calibration.rows import RowSampling
from amc_env.repair import targets
from amc_env.repair.sequential import SequentialSettings, repair_sequentially_


class Projected(nn.Module):
    """A residual block whose shortcut is computed after the layer that it is added to."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.a, self.b = nn.Conv2d(8, 10, 3, padding=1), nn.Conv2d(10, 6, 3, padding=1)
        self.norm, self.short = nn.BatchNorm2d(6), nn.Conv2d(8, 6, 1)
        self.head = nn.Conv2d(6, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        y = self.norm(self.b(self.a(x).relu()))
        y = y + self.short(x)
        out: Tensor = self.head(y.relu()).mean((2, 3))
        return out


def projected() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return Projected().eval(), torch.randn(2, 3, 8, 8)


NAMES = [
    "projected",
    "residual",
    "dense",
    "flatten",
    "grouped",
    "depthwise",
    "channels last linear",
]


def repaired(name: str, settings: SequentialSettings) -> dict[str, Tensor]:
    model, example = projected() if name == "projected" else build(NETWORKS, name)
    graph = ChannelGraph(model.double(), example.double())
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(17, *example.shape[1:], generator=generator, dtype=torch.float64)
    kept = {g.name: torch.arange(g.counts[len(g.counts) // 2]) for g in graph.groups}
    compact = graph.compact(kept)
    repair_sequentially_(compact, graph, kept, x.split(5), settings=settings)
    return compact.state_dict()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "settings",
    [
        SequentialSettings(sampling=RowSampling(positions=7)),
        SequentialSettings(match_residual_sums=True),
    ],
    ids=["positions", "sums"],
)
def test_what_fits_into_memory_does_not_change_the_weights(
    name: str, settings: SequentialSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = repaired(name, settings)
    # Two batches run together, then one; what a round may hold of targets is as little.
    for limit in (11 * 8 * 64, 1):
        monkeypatch.setattr(targets, "_LIMIT", limit)
        monkeypatch.setattr(unfolding, "_CHUNK", 1)
        in_parts = repaired(name, settings)
        for key, value in together.items():
            assert torch.allclose(value, in_parts[key], rtol=1e-7, atol=1e-10), (limit, key)


def test_the_pull_falls_with_the_square_of_the_rows_for_each_input() -> None:
    model, example = projected()
    graph = ChannelGraph(model.double(), example.double(), ignore=["stem", "b", "short"])
    x = torch.randn(17, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def solved(settings: SequentialSettings) -> Tensor:
        compact = graph.compact({"a": torch.arange(5)})
        kept = {"a": torch.arange(5)}
        repair_sequentially_(compact, graph, kept, [x], settings=settings)
        return compact.get_parameter("b.weight")

    # Five channels under nine pixels, and all 64 positions of 17 samples.
    pull = (3 * 45 / (17 * 64)) ** 2
    few = solved(SequentialSettings(ridge=1e-3, rows_per_input=3.0, only_readers=True))
    same = solved(SequentialSettings(ridge=1e-3 + pull, only_readers=True))
    without = solved(SequentialSettings(ridge=1e-3, only_readers=True))
    assert torch.allclose(few, same, rtol=1e-9, atol=1e-12)
    assert not torch.allclose(few, without, rtol=1e-3)


@pytest.mark.parametrize("only_readers", [False, True])
def test_layers_that_read_no_group_can_be_left_alone(only_readers: bool) -> None:
    model, example = projected()
    graph = ChannelGraph(model, example, ignore=["stem", "b", "short"])
    kept = {"a": torch.arange(5)}
    compact = graph.compact(kept)
    before = {name: value.clone() for name, value in compact.state_dict().items()}
    x = torch.randn(20, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    settings = SequentialSettings(only_readers=only_readers)
    repair_sequentially_(compact, graph, kept, [x], settings=settings)
    after = compact.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert "b.weight" in changed
    assert ("head.weight" in changed) is not only_readers


class Peak(TorchDispatchMode):
    """Records the largest tensor and the most bytes that live at the same time, without samples."""

    def __init__(self, samples: Tensor) -> None:
        super().__init__()
        self.largest = self.most = self._live = 0
        # A view of the samples takes no memory.
        self._views = Counter({samples.untyped_storage().data_ptr(): 1})

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._note(tensor)
        return result

    def _note(self, tensor: Tensor) -> None:
        self.largest = max(self.largest, tensor.numel())
        # Views share a storage, which lives as long as any of them.
        storage = tensor.untyped_storage()
        key, size = storage.data_ptr(), storage.nbytes()
        if not self._views[key]:
            self._live += size
            self.most = max(self.most, self._live)
        self._views[key] += 1
        weakref.finalize(tensor, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._views[key] -= 1
        if not self._views[key]:
            self._live -= size


SIDE, CHANNELS, BATCH = 24, 8, 2
MAP = CHANNELS * SIDE**2


def peak(batches: int, settings: SequentialSettings) -> Peak:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, CHANNELS, 3, padding=1), nn.ReLU()]
    for _ in range(3):
        layers += [nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), nn.ReLU()]
    model = nn.Sequential(*layers).eval()
    x = torch.randn(batches * BATCH, 3, SIDE, SIDE).split(BATCH)
    graph = ChannelGraph(model, x[0])
    kept = {g.name: torch.arange(g.channels - 2) for g in graph.groups}
    compact = graph.compact(kept)
    with Peak(x[0]) as found:
        repair_sequentially_(compact, graph, kept, x, settings=settings)
    return found


@pytest.mark.parametrize("sampling", [RowSampling(), RowSampling(positions=8)], ids=["all", "some"])
def test_memory_does_not_grow_with_the_samples(
    sampling: RowSampling, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = SequentialSettings(sampling=sampling)
    # One batch of maps at a time, and the rows of one sample.
    monkeypatch.setattr(targets, "_LIMIT", BATCH * MAP)
    monkeypatch.setattr(unfolding, "_CHUNK", 9 * MAP)
    few, many = peak(3, settings), peak(24, settings)
    assert many.largest == few.largest <= 9 * MAP
    assert many.most <= 1.1 * few.most
