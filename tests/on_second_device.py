"""Everything once where the model is, and the same as on the CPU; ``test_devices.py`` runs it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hydra import compose, initialize_config_dir
from on_devices import adjusted, outcome, repaired, trained, trained_on_bytes
from pruning import samples, tiny
from second_device import DEVICE, MISSING, Elsewhere, Second
from torch import Tensor

from amc_env import EnvSettings, RepairSettings
from amc_env.calibration import calibrate
from amc_env.criteria import CRITERIA, make_criterion
from amc_env.pipeline import report, stages
from amc_env.pipeline.config import RunConfig
from amc_env.pipeline.finetuning import finetune
from amc_env.rewards import REWARDS

CONFIGS = Path(__file__).resolve().parent.parent / "amc_env" / "configs"


@pytest.fixture(autouse=True)
def _device() -> Iterator[None]:
    with Second():
        yield
    MISSING.clear()


def test_devices_that_meet_are_found() -> None:
    with pytest.raises(RuntimeError, match="two devices"):
        torch.ones(3, device=DEVICE) + torch.ones(3)


def assert_same(**arguments: object) -> None:
    """Episodes there and here come to the same, but for rounding."""
    (there, kept), (here, expected) = outcome(DEVICE, **arguments), outcome("cpu", **arguments)
    assert kept == expected
    assert there == pytest.approx(here, rel=1e-9)


@pytest.mark.parametrize("name", [name for name in CRITERIA if name != "bn_scale"])
def test_criteria(name: str) -> None:
    arguments = {"criterion": make_criterion(name), "reward": "loss"}
    assert_same(**arguments)


@pytest.mark.parametrize("name", [name for name in REWARDS if name != "weighted"])
def test_rewards(name: str) -> None:
    assert_same(reward=name)


@pytest.mark.parametrize(
    "repair",
    [
        RepairSettings(norm_samples=8, repair="plain"),
        RepairSettings(repair="sequential"),
        RepairSettings(repair="sequential", match_residual_sums=True),
    ],
)
def test_repairs(repair: RepairSettings) -> None:
    arguments = {"settings": EnvSettings(repair=repair, precision="float32"), "reward": "loss"}
    assert_same(**arguments)


def test_repair_on_a_device_without_float64() -> None:
    expected = repaired("cpu")
    MISSING.add(torch.float64)
    with pytest.raises(TypeError, match="has no"):
        torch.ones(2, device=DEVICE).double()
    grams = calibrate(tiny().to(DEVICE), [samples(5).inputs.to(DEVICE)], layers=["wide"]).grams
    assert grams["wide"].device.type == "cpu"
    for there, here in zip(repaired(DEVICE), expected, strict=True):
        assert isinstance(there.data, Elsewhere)
        assert torch.allclose(there.data.cpu(), here, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in CRITERIA if name != "bn_scale"])
def test_criteria_on_a_device_without_float64(name: str) -> None:
    arguments = {"criterion": make_criterion(name), "reward": "accuracy"}
    _, expected = outcome("cpu", **arguments)
    MISSING.add(torch.float64)
    _, kept = outcome(DEVICE, **arguments)
    assert kept == expected


@pytest.mark.parametrize("name", [name for name in REWARDS if name != "weighted"])
def test_rewards_on_a_device_without_float64(name: str) -> None:
    expected, _ = outcome("cpu", reward=name)
    MISSING.add(torch.float64)
    reward, _ = outcome(DEVICE, reward=name)
    assert reward == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("parameters", [trained, trained_on_bytes, adjusted])
def test_training(parameters: Callable[[torch.device | str], list[Tensor]]) -> None:
    for mine, other in zip(parameters(DEVICE), parameters("cpu"), strict=True):
        assert torch.equal(mine, other)


def test_a_run_up_to_its_table(monkeypatch: pytest.MonkeyPatch) -> None:
    # It asks tensors where in memory they lie, which these cannot say.
    monkeypatch.setattr("amc_env.pipeline.run.save_pruned", lambda *_: None)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        overrides = [f"device={DEVICE}", "base.epochs=1", "agent=uniform", "search.compare=[]"]
        config = RunConfig.of(compose("config", overrides))
    with TemporaryDirectory() as folder:
        run = stages.start(config, Path(folder))
        model, data = stages.base_model(run)
        env = stages.environment(run, model, data)
        networks = stages.repair(run, env, stages.search(run, env))
        networks = finetune(run, env, networks, data)
        report.finish(run, env, data, networks, [])
    assert networks[-1].stage == "finetuned"
    for network in networks:
        assert all(isinstance(p, Elsewhere) for p in network.result.compact.parameters())
