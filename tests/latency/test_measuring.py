from pathlib import Path

import pytest
import torch
from pruning import tiny

from amc_env import ChannelGraph
from amc_env.__main__ import main
from amc_env.latency import Conditions, LatencyTable
from amc_env.latency.measuring import MeasureSettings, measure
from amc_env.latency.plan import mixed_designs
from amc_env.latency.runtimes import Runtime
from amc_env.models import NamedModel

QUICK = MeasureSettings(levels=3, seconds=1e-5)
TINY = NamedModel(name="tiny", model=tiny(), input_shape=(1, 8, 8))


def here(runtime: Runtime = "torch", *, batch: int = 2) -> Conditions:
    return Conditions.here(device="cpu", runtime=runtime, threads=1, batch=batch)


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime"])
def test_every_layer_is_measured_and_any_policy_predicted(tmp_path: Path, runtime: Runtime) -> None:
    if runtime == "onnxruntime":
        pytest.importorskip("onnxruntime")
    path = tmp_path / "table.json"
    seen: list[tuple[int, int]] = []
    table = measure(
        TINY,
        path,
        conditions=here(runtime),
        settings=QUICK,
        advance=lambda done, total: seen.append((done, total)),
    )
    graph = ChannelGraph(tiny(), torch.zeros(2, 1, 8, 8))
    assert list(table.layers) == [layer.name for layer in graph.layers]
    # Stem and head have one free side of three numbers, the depthwise convolution equal ones.
    assert [len(segment.points) for segment in table.segments] == [3, 3, 9, 9, 3]
    assert seen == [(number, 27) for number in range(1, 28)]
    assert len(table.networks) == len(mixed_designs(graph))
    assert LatencyTable.load(path).milliseconds(graph.cost({"wide": 7})) > 0.0
    assert all(p.least_ms > 0.0 for segment in table.segments for p in segment.points)


def test_an_interrupted_measurement_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "table.json"

    def stop(done: int, _total: int) -> None:
        if done == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(TINY, path, conditions=here(), settings=QUICK, advance=stop)
    with pytest.raises(ValueError, match="is not finished"):
        LatencyTable.load(path)
    before = [segment.points for segment in LatencyTable.read(path).segments]
    assert sum(map(len, before)) == 10
    seen: list[int] = []
    table = measure(
        TINY, path, conditions=here(), settings=QUICK, advance=lambda done, _: seen.append(done)
    )
    assert seen == list(range(11, 28))
    for old, new in zip(before, table.segments, strict=True):
        assert new.points[: len(old)] == old
    # A finished one is left as it is.
    content = path.read_bytes()
    measure(TINY, path, conditions=here(), settings=QUICK)
    assert path.read_bytes() == content


def test_a_measurement_under_other_conditions_is_not_continued(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    measure(TINY, path, conditions=here(), settings=QUICK)
    with pytest.raises(ValueError, match="holds a measurement with other conditions"):
        measure(TINY, path, conditions=here(batch=3), settings=QUICK)
    with pytest.raises(ValueError, match="holds a measurement with other levels"):
        measure(TINY, path, conditions=here(), settings=MeasureSettings(levels=5, seconds=1e-5))


def test_settings_that_cannot_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="levels is 4"):
        MeasureSettings(levels=4)
    with pytest.raises(ValueError, match="seconds is 0; give a positive number"):
        MeasureSettings(seconds=0)
    unknown = NamedModel(name="tiny", model=tiny(), input_shape=None)
    with pytest.raises(ValueError, match="give the shape of one sample of tiny"):
        measure(unknown, tmp_path / "table.json", conditions=here())


def test_the_command_measures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "table.json"
    arguments = ["measure", "digits_cnn", "--out", str(out), "--levels", "3", "--seconds", "1e-5"]
    assert main(arguments) == 0
    assert "its steps favour multiples of" in capsys.readouterr().out
    assert LatencyTable.read(out).input_shape == (1, 8, 8)
    assert main([*arguments, "--threads", "0"]) == 2
    assert "threads is 0; give 1 or more" in capsys.readouterr().err
