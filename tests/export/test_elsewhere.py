"""A compact network is an ordinary one: PyTorch compiles, quantises and distributes it."""

import copy
from pathlib import Path

import pytest
import torch
from exported import difference, leave_run
from torch import nn

from amc_env.models import build_model


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    return torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def compact(x: torch.Tensor, tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    model = build_model("cifar_resnet20", seed=0).eval()
    return leave_run(tmp_path_factory.mktemp("run"), model, x)


# What an old onnxscript warns of when torch looks for it is no matter of the network's.
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_it_is_compiled(compact: nn.Module, x: torch.Tensor) -> None:
    torch.compiler.reset()
    with torch.no_grad():
        given = torch.compile(compact, backend="eager", fullgraph=True)(x)
        assert torch.equal(given, compact(x))


# torch warns that this way of quantising moves to another package.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_it_is_quantised(compact: nn.Module, x: torch.Tensor) -> None:
    quantised = torch.ao.quantization.quantize_dynamic(compact, {nn.Linear}, dtype=torch.qint8)
    assert any(p.dtype == torch.qint8 for p in _weights(quantised))
    with torch.no_grad():
        # Eight bits tell 256 values apart.
        assert difference(quantised(x), compact(x)) < 0.05


# torch warns that this way of quantising moves to another package, and of its own types.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_its_convolutions_are_quantised_after_training(tmp_path: Path) -> None:
    x = torch.randn(16, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    compact = leave_run(tmp_path, build_model("lenet5", seed=0).eval(), x[:2])
    wrapped = torch.ao.quantization.QuantWrapper(compact)
    wrapped.qconfig = torch.ao.quantization.get_default_qconfig()
    observed = torch.ao.quantization.prepare(wrapped)
    with torch.no_grad():
        observed(x)
        quantised = torch.ao.quantization.convert(observed)
        assert [w.dtype for w in _weights(quantised)] == [torch.qint8] * 5
        # Every layer rounds its outputs too.
        assert difference(quantised(x), compact(x)) < 0.15


@pytest.mark.filterwarnings("ignore")
def test_torchao_quantises_its_linear_layers(compact: nn.Module, x: torch.Tensor) -> None:
    torchao = pytest.importorskip("torchao.quantization", reason="torchao is not installed")
    quantised = copy.deepcopy(compact)
    # Compiled networks alone read the settings of the compiler.
    torchao.quantize_(quantised, torchao.Int8WeightOnlyConfig(set_inductor_config=False))
    linear = [m for m in quantised.modules() if isinstance(m, nn.Linear)]
    assert [type(layer.weight).__name__ for layer in linear] == ["Int8Tensor"]
    with torch.no_grad():
        assert 0 < difference(quantised(x), compact(x)) < 0.05


def _weights(model: nn.Module) -> list[torch.Tensor]:
    return [m.weight() for m in model.modules() if callable(getattr(m, "weight", None))]


def test_it_trains_in_parallel(compact: nn.Module, x: torch.Tensor, tmp_path: Path) -> None:
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(compact)
        parallel(x).square().mean().backward()
        assert all(parameter.grad is not None for parameter in compact.parameters())
        compact.zero_grad()
    finally:
        torch.distributed.destroy_process_group()
