import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pruning import tiny, tiny_env
from safetensors.torch import save_model

from amc_env import Budget, Policy
from amc_env.files import atomic, write_text
from amc_env.models import build_model


@pytest.fixture(scope="module")
def policy() -> Policy:
    env = tiny_env(budget=Budget(flops=0.5))
    env.reset()
    for _ in env.graph.groups:
        *_, info = env.step(np.array([0.4], np.float32))
    assert isinstance(info["policy"], Policy)
    return info["policy"]


def test_a_policy_survives_its_file_and_makes_the_same_network(
    policy: Policy, tmp_path: Path
) -> None:
    path = tmp_path / "sub" / "policy.json"
    policy.save(path)
    assert Policy.load(path) == policy
    compact = Policy.load(path).apply(tiny())
    params = sum(p.numel() for p in compact.parameters())
    assert params / sum(p.numel() for p in tiny().parameters()) == policy.reached["params"]
    assert policy.reached["flops"] <= policy.budget["flops"] == 0.5
    for group in policy.groups:
        assert group.sparsity == 1 - len(group.kept) / group.channels


@pytest.mark.slow
def test_a_fresh_process_makes_the_same_logits(policy: Policy, tmp_path: Path) -> None:
    policy.save(tmp_path / "policy.json")
    compact = policy.apply(tiny())
    with torch.no_grad():
        for parameter in compact.parameters():
            parameter.mul_(1.1)
    save_model(compact, tmp_path / "pruned.safetensors")
    x = torch.linspace(-1, 1, 128).view(2, 1, 8, 8)
    code = f"""
import sys, torch
from safetensors.torch import load_model
from pruning import tiny
from amc_env import Policy
compact = Policy.load(r"{tmp_path}/policy.json").apply(tiny()).eval()
load_model(compact, r"{tmp_path}/pruned.safetensors")
torch.set_num_threads(1)
torch.save(compact(torch.linspace(-1, 1, 128).view(2, 1, 8, 8)).detach(), r"{tmp_path}/out.pt")
"""
    path = ":".join(p for p in sys.path if p)
    subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": path}, check=True)
    with torch.no_grad():
        assert torch.equal(torch.load(tmp_path / "out.pt"), compact.eval()(x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format: Input should be 1"),
        ({"model": 3}, "model: Input should be a valid string"),
        ({"colour": "red"}, "colour: Extra inputs are not permitted"),
    ],
)
def test_a_file_that_is_no_policy_names_the_field(
    policy: Policy, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    record = json.loads(policy.model_dump_json()) | change
    (tmp_path / "policy.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=f"policy.json is no policy: {message}"):
        Policy.load(tmp_path / "policy.json")


def test_a_broken_file_or_impossible_channels_are_refused(policy: Policy, tmp_path: Path) -> None:
    (tmp_path / "half.json").write_text(policy.model_dump_json()[:100])
    with pytest.raises(ValueError, match=r"half\.json is no policy: the file: Invalid JSON"):
        Policy.load(tmp_path / "half.json")
    record = json.loads(policy.model_dump_json())
    record["groups"][0]["kept"] = [1, 99]
    (tmp_path / "far.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"give ascending indices from 0 to 7"):
        Policy.load(tmp_path / "far.json")


def test_a_policy_of_another_network_is_refused(policy: Policy) -> None:
    other = build_model("digits_cnn")
    with pytest.raises(ValueError, match="the policy is of 'Tiny'"):
        policy.apply(other)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_text(path, "old")

    def fail() -> None:
        with atomic(path) as temporary:
            temporary.write_text("half of the n")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device here")
def test_a_full_disk_leaves_nothing_half_written(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> int:
        with Path("/dev/full").open("w") as device:
            return device.write("x" * 2**20)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        policy.save(tmp_path / "policy.json")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_an_error_with_its_name(
    policy: Policy, tmp_path: Path
) -> None:
    # A file stands where the folder should be; root may write anywhere else.
    (tmp_path / "runs").write_text("")
    with pytest.raises(OSError, match="runs"):
        policy.save(tmp_path / "runs" / "policy.json")
    if os.geteuid() != 0:
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(PermissionError, match="locked"):
            policy.save(tmp_path / "locked" / "policy.json")
