import pytest
import torch
from latency_tables import conditions, table_by
from pruning import tiny

from amc_env import ChannelGraph
from amc_env.latency.clock import Timing
from amc_env.latency.comparison import Compared, cells, compare, runtimes_for, with_prediction
from amc_env.latency.runtimes import all_threads

CPU = torch.device("cpu")


def one(batch: int = 1, threads: int = 1) -> Compared:
    return Compared(
        runtime="torch",
        batch=batch,
        threads=threads,
        original=Timing(4.0, 0.2),
        pruned=Timing(2.0, 0.1),
    )


def test_two_networks_are_timed_for_one_sample_and_many_on_one_thread_and_on_all() -> None:
    before = torch.get_num_threads()
    found = list(compare([tiny(), tiny()], torch.randn(1, 1, 8, 8), runtime="torch"))
    counts = sorted({1, all_threads()})
    assert [(c.batch, c.threads) for c in found] == [(b, t) for b in (1, 64) for t in counts]
    assert all(c.original.median_ms > 0.0 and c.predicted is None for c in found)
    assert torch.get_num_threads() == before


def test_only_what_the_table_was_measured_for_has_a_prediction() -> None:
    graph = ChannelGraph(tiny(), torch.randn(2, 1, 8, 8))
    table = table_by(lambda inputs, outputs: float(inputs * outputs), graph)
    table = table.model_copy(update={"conditions": conditions(threads=1)})
    costs = graph.cost(), graph.cost({"wide": 6})
    first, second, third = with_prediction(
        [one(), one(batch=64), one(threads=2)], table, costs, CPU
    )
    assert first.predicted == (table.milliseconds(costs[0]), table.milliseconds(costs[1]))
    assert second.predicted is third.predicted is None


def test_a_table_for_people_has_medians_ranges_and_ratios() -> None:
    header, rows = cells([one()])
    assert header == ["runtime, batch, threads", "original ms", "pruned ms", "ratio"]
    assert rows == [["torch, 1, 1", "4.00 ±0.10", "2.00 ±0.05", "0.500"]]
    predicted = one().model_copy(update={"predicted": (4.0, 2.5)})
    header, rows = cells([predicted, one(batch=64)])
    assert [header[-1], *(row[-1] for row in rows)] == ["predicted", "2.5 (0.625)", ""]


def test_a_card_is_measured_with_pytorch_alone() -> None:
    assert runtimes_for(torch.device("cuda")) == ["torch"]
    assert runtimes_for(CPU)[0] == "torch"


def test_networks_that_cannot_run_elsewhere_are_refused() -> None:
    pytest.importorskip("onnxruntime")

    class Own(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.eigvalsh(x)

    with pytest.raises(ValueError, match=r"cannot be written for onnxruntime: torch\.onnx says"):
        list(compare([Own(), Own()], torch.randn(1, 1, 8, 8), runtime="onnxruntime"))
