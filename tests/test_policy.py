import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pruning import Tiny, tiny, tiny_env
from safetensors import safe_open
from safetensors.torch import save_file, save_model
from torch import nn
from typing_extensions import override

from amc_env import Budget, Policy
from amc_env.files import atomic, write_text
from amc_env.models import build_model
from amc_env.policy import ModelSource, PrunedFacts, load_pruned, save_pruned, with_weights


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


def test_the_file_has_the_channels_of_a_group_on_one_line(policy: Policy, tmp_path: Path) -> None:
    known = {"source": ModelSource(name="größe.py:netz", options={"a": 1}), "accuracy": 0.75}
    policy = policy.model_copy(update=known)
    policy.save(tmp_path / "policy.json")
    lines = [line.strip() for line in (tmp_path / "policy.json").read_text("utf-8").splitlines()]
    for group in policy.groups:
        assert f'"kept": {list(group.kept)},' in lines
    assert '"accuracy": 0.75' in lines
    assert '"name": "größe.py:netz",' in lines
    assert Policy.load(tmp_path / "policy.json") == policy


def test_a_file_from_before_a_field_was_there_keeps_its_checksum(
    policy: Policy, tmp_path: Path
) -> None:
    # As they were written when there was neither an accuracy nor a source.
    fields = {"source", "accuracy", "metric", "measured_on", "arguments", "input_types"}
    (tmp_path / "policy.json").write_text(policy.model_dump_json(indent=2, exclude=fields))
    old = policy.model_dump_json(exclude=fields)
    content = json.dumps(json.loads(old), sort_keys=True, separators=(",", ":"))
    assert Policy.load(tmp_path / "policy.json") == policy
    assert policy.checksum == hashlib.sha256(content.encode()).hexdigest()


FACTS = PrunedFacts(macs=1234, accuracy=0.75, measured_on="the validation split")


@pytest.fixture
def folder(policy: Policy, tmp_path: Path) -> Path:
    """A run's folder with weights that are those of no fresh network."""
    save_pruned(tmp_path, policy, changed(policy), FACTS)
    return tmp_path


def changed(policy: Policy) -> torch.nn.Module:
    compact = policy.apply(tiny())
    with torch.no_grad():
        for parameter in compact.parameters():
            parameter.mul_(1.1)
    return compact.eval()


def test_a_pruned_network_is_loaded_with_its_weights(policy: Policy, folder: Path) -> None:
    x = torch.linspace(-1, 1, 128).view(2, 1, 8, 8)
    loaded = load_pruned(tiny().train(), folder)
    assert not any(module.training for module in loaded.modules())
    with torch.no_grad():
        assert torch.equal(loaded(x), changed(policy)(x))


def test_weights_say_what_they_are(policy: Policy, folder: Path) -> None:
    with safe_open(folder / "pruned.safetensors", framework="pt") as file:
        metadata = file.metadata()
    assert metadata["model"] == "Tiny"
    assert metadata["policy_sha256"] == policy.checksum
    assert (metadata["macs"], metadata["accuracy"]) == ("1234", "0.75")
    assert metadata["measured_on"] == "the validation split"


def test_tied_and_half_precision_weights_are_loaded(policy: Policy, tmp_path: Path) -> None:
    class Tied(Tiny):
        def __init__(self) -> None:
            super().__init__()
            self.again = self.head

    tied = Tied().to(torch.bfloat16).eval()
    policy = policy.model_copy(update={"model": "Tied"})
    save_pruned(tmp_path, policy, policy.apply(tied), FACTS)
    loaded = load_pruned(Tied().to(torch.bfloat16), tmp_path)
    assert loaded.again is loaded.head
    assert torch.equal(loaded.head.bias, tied.head.bias)  # type: ignore[union-attr,arg-type]


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_truncated_weights_are_refused(folder: Path, share: float) -> None:
    path = folder / "pruned.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"pruned.safetensors is damaged and cannot be read"):
        load_pruned(tiny(), folder)


@pytest.mark.parametrize("place", [0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9999])
def test_a_flipped_bit_in_the_weights_is_refused(folder: Path, place: float) -> None:
    path = folder / "pruned.safetensors"
    content = bytearray(path.read_bytes())
    # Behind the header, the bytes of the tensors.
    header = 8 + int.from_bytes(content[:8], "little")
    content[header + int(place * (len(content) - header))] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged: its content differs from its checksum"):
        load_pruned(tiny(), folder)


def test_no_byte_of_the_header_can_be_changed(folder: Path) -> None:
    path = folder / "pruned.safetensors"
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    for place in range(0, header, 7):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(ValueError, match=r"pruned.safetensors (is|was|holds)"):
            load_pruned(tiny(), folder)


def test_an_edited_policy_is_refused(policy: Policy, folder: Path) -> None:
    record = json.loads((folder / "policy.json").read_text())
    group = next(g for g in record["groups"] if len(g["kept"]) < g["channels"])
    # Another channel instead of one that stays: the file is a valid policy, and shapes fit.
    other = next(c for c in range(group["channels"]) if c not in group["kept"])
    group["kept"] = sorted([*group["kept"][1:], other])
    (folder / "policy.json").write_text(json.dumps(record))
    assert Policy.load(folder / "policy.json") != policy
    with pytest.raises(ValueError, match=r"was not made for the policy.json beside it"):
        load_pruned(tiny(), folder)


def test_a_policy_of_another_run_is_refused(policy: Policy, folder: Path) -> None:
    policy.model_copy(update={"seed": 7}).save(folder / "policy.json")
    with pytest.raises(ValueError, match=r"take both files from the same run"):
        load_pruned(tiny(), folder)


def test_the_layout_of_the_file_does_not_matter(folder: Path) -> None:
    record = json.loads((folder / "policy.json").read_text())
    (folder / "policy.json").write_text(json.dumps(dict(reversed(record.items()))))
    load_pruned(tiny(), folder)


def test_missing_files_foreign_weights_and_networks_are_refused(
    policy: Policy, folder: Path
) -> None:
    with pytest.raises(ValueError, match="the policy belongs to 'Tiny'"):
        load_pruned(build_model("digits_cnn"), folder)
    save_file({"weight": torch.zeros(3)}, folder / "pruned.safetensors")
    with pytest.raises(ValueError, match="holds no checksums"):
        load_pruned(tiny(), folder)
    save_pruned(folder, policy, torch.nn.Linear(2, 3), FACTS)
    with pytest.raises(ValueError, match="do not fit Tiny pruned by"):
        load_pruned(tiny(), folder)
    (folder / "pruned.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no pruned.safetensors in"):
        load_pruned(tiny(), folder)


class Shared(nn.Module):
    """Two names of one tensor, and a version that has to be there."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 3)
        self.two.weight = self.one.weight

    @override
    def _load_from_state_dict(self, weights: Any, prefix: str, metadata: Any, *rest: Any) -> None:
        assert "version" in metadata
        super()._load_from_state_dict(weights, prefix, metadata, *rest)


def test_shared_weights_and_modules_with_a_version_are_read(tmp_path: Path) -> None:
    saved, network = Shared(), Shared()
    save_model(saved, tmp_path / "pruned.safetensors")
    with_weights(network, tmp_path)
    assert torch.equal(network.one.weight, saved.one.weight)
    assert network.two.weight is network.one.weight
    save_file({"one.weight": torch.zeros(3, 3)}, tmp_path / "pruned.safetensors")
    with pytest.raises(ValueError, match="do not fit Shared pruned by"):
        with_weights(network, tmp_path)


@pytest.mark.slow
def test_a_fresh_process_makes_the_same_logits(policy: Policy, folder: Path) -> None:
    code = f"""
import sys, torch
from pruning import tiny
from amc_env.policy import load_pruned
torch.set_num_threads(1)
compact = load_pruned(tiny(), r"{folder}")
torch.save(compact(torch.linspace(-1, 1, 128).view(2, 1, 8, 8)).detach(), r"{folder}/out.pt")
"""
    path = ":".join(p for p in sys.path if p)
    subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": path}, check=True)
    x = torch.linspace(-1, 1, 128).view(2, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(torch.load(folder / "out.pt"), changed(policy)(x))


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
    with pytest.raises(ValueError, match=f"policy.json is not a policy: {message}"):
        Policy.load(tmp_path / "policy.json")


def test_a_broken_file_or_impossible_channels_are_refused(policy: Policy, tmp_path: Path) -> None:
    (tmp_path / "half.json").write_text(policy.model_dump_json()[:100])
    with pytest.raises(ValueError, match=r"half\.json is not a policy: the file: Invalid JSON"):
        Policy.load(tmp_path / "half.json")
    record = json.loads(policy.model_dump_json())
    record["groups"][0]["kept"] = [1, 99]
    (tmp_path / "far.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"give ascending indices from 0 to 7"):
        Policy.load(tmp_path / "far.json")


def test_a_policy_of_another_network_is_refused(policy: Policy) -> None:
    other = build_model("digits_cnn")
    with pytest.raises(ValueError, match="the policy belongs to 'Tiny'"):
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
