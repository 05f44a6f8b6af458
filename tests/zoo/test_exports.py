"""Exports of many families of networks compute the same where this package is not installed."""

from pathlib import Path

import pytest
import torch
from exported import computed_elsewhere, difference, leave_run
from zoo.architectures import ARCHITECTURES, build

from amc_env.export.finished import Finished
from amc_env.export.programs import write_onnx, write_program
from amc_env.export.weights import write_weights
from amc_env.policy import checked_policy, with_weights


def leave_exports(name: str, folder: Path) -> torch.Tensor:
    """Write a pruned network in all formats with samples for it, and return its class scores."""
    model, x = build(ARCHITECTURES[name])
    leave_run(folder, model, x)
    policy = checked_policy(folder)
    graph = policy.graph(model)
    network = with_weights(graph.compact(policy.kept), folder)
    run = Finished(folder=folder, policy=policy, graph=graph, network=network)
    for write in (write_program, write_weights, write_onnx):
        write(run, folder)
    samples = torch.randn(3, *x.shape[1:], generator=torch.Generator().manual_seed(0))
    torch.save(samples, folder / "x.pt")
    with torch.no_grad():
        out = network(samples)
    return out if isinstance(out, torch.Tensor) else next(iter(out))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("source", sorted({a.source for a in ARCHITECTURES.values()}))
def test_exports_compute_the_same_elsewhere(source: str, tmp_path: Path) -> None:
    # An export takes up to half a minute, so all networks would take longer than all other tests.
    names = [n for n, a in ARCHITECTURES.items() if a.source == source and a.quick]
    wanted = [leave_exports(name, tmp_path / name) for name in names]
    found = computed_elsewhere([tmp_path / name for name in names])
    for name, outputs, scores in zip(names, found, wanted, strict=True):
        assert max(difference(output, scores) for output in outputs) <= 1e-4, name
