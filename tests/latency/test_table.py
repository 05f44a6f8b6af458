import json
from pathlib import Path

import pytest
import torch
from latency_tables import conditions, in_eights, table_by
from pruning import tiny

from amc_env import ChannelGraph
from amc_env.latency import Conditions, LatencyTable
from amc_env.latency.table import WholeNetwork
from amc_env.models import build_model

TINY = ChannelGraph(tiny(), torch.randn(2, 1, 8, 8))
VGG = ChannelGraph(build_model("cifar_vgg16", seed=0).eval(), torch.randn(2, 3, 32, 32))


def product(inputs: int, outputs: int) -> float:
    return float(inputs * outputs)


def test_a_prediction_is_the_sum_of_the_layers() -> None:
    table = table_by(product, TINY)
    cost = TINY.cost({"stem": 4, "wide": 6})
    # stem 1 x 4, depthwise 4 x 4, wide 4 x 6, last 6 x 10, head 10 x 4
    assert table.by_layer(cost) == pytest.approx([4, 16, 24, 60, 40], rel=0.1)
    assert table.milliseconds(cost) == pytest.approx(sum(table.by_layer(cost)))


def test_offset_and_factor_are_those_of_whole_networks() -> None:
    # T = 1 + 2 S
    networks = tuple(
        WholeNetwork(sum_ms=s, median_ms=1.0 + 2.0 * s, iqr_ms=0.0) for s in (1.0, 3.0, 8.0)
    )
    table = table_by(product, TINY).model_copy(update={"networks": networks})
    assert table.fit == pytest.approx((1.0, 2.0))
    assert table.milliseconds(TINY.cost()) == pytest.approx(1 + 2 * (8 + 64 + 96 + 120 + 40))


def test_networks_that_noise_has_turned_around_give_a_factor_alone() -> None:
    networks = (
        WholeNetwork(sum_ms=1.0, median_ms=3.0, iqr_ms=0.0),
        WholeNetwork(sum_ms=2.0, median_ms=2.0, iqr_ms=0.0),
    )
    table = table_by(product, TINY).model_copy(update={"networks": networks})
    assert table.fit == (0.0, 2.0)


def test_steps_tell_the_multiple() -> None:
    assert table_by(in_eights, VGG).multiple == 8
    assert table_by(product, VGG).multiple == 1


def test_a_table_survives_its_file(tmp_path: Path) -> None:
    table = table_by(product, TINY)
    table.save(tmp_path / "table.json")
    loaded = LatencyTable.load(tmp_path / "table.json")
    assert loaded.model_dump() == table.model_dump()
    assert loaded.milliseconds(TINY.cost()) == table.milliseconds(TINY.cost())


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"threads": 64}, "with threads 64 and not"),
        ({"device": "cuda:63"}, "device 'cuda:63' cannot be used here"),
        ({"device_name": "a telephone"}, "with device_name a telephone and not"),
        ({"versions": {"torch": "0.1"}}, "with versions {'torch': '0.1'} and not"),
    ],
)
def test_a_table_of_elsewhere_is_refused_unless_told_otherwise(
    tmp_path: Path, changed: dict[str, object], said: str
) -> None:
    path = tmp_path / "table.json"
    table_by(product, TINY).model_copy(update={"conditions": conditions(**changed)}).save(path)
    with pytest.raises(ValueError, match=f"was measured elsewhere: {said}"):
        LatencyTable.load(path)
    assert LatencyTable.load(path, anywhere=True).model == "made up"


def test_an_unfinished_or_damaged_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    table_by(product, TINY).model_copy(update={"networks": ()}).save(path)
    with pytest.raises(ValueError, match="is not finished; give the command that began it again"):
        LatencyTable.load(path)
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "levels": "many"}))
    with pytest.raises(ValueError, match=r"is no table of latencies \(levels: "):
        LatencyTable.load(path)
    path.write_text(path.read_text()[:40])
    with pytest.raises(ValueError, match="is no table of latencies"):
        LatencyTable.load(path)


def test_a_table_of_another_network_is_refused() -> None:
    with pytest.raises(ValueError, match="is of made up, which has no layer"):
        table_by(product, TINY).milliseconds(VGG.cost())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"threads": 0}, "threads is 0; give 1 or more"),
        ({"batch": 0}, "batch is 0; give 1 or more"),
        ({"runtime": "tensorrt"}, "runtime 'tensorrt' does not exist; choose one of torch"),
        ({"clock": "sun"}, "clock 'sun' does not exist; choose one of wall, processor"),
        ({"clock": "processor", "threads": 2}, "give the clock wall"),
        ({"device": "nowhere"}, "device 'nowhere' cannot be used here"),
        ({"runtime": "onnxruntime", "device": "cuda"}, "is measured on the CPU only"),
    ],
)
def test_conditions_that_cannot_be_are_refused(given: dict[str, object], said: str) -> None:
    usual: dict[str, object] = {"device": "cpu", "runtime": "torch", "threads": 1, "batch": 1}
    with pytest.raises(ValueError, match=said):
        Conditions.here(**{**usual, **given})  # type: ignore[arg-type]
