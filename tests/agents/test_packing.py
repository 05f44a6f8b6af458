"""What is sent to other processes with its large tensors apart."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from searching import env_of
from torch import nn

from amc_env.agents import packing
from amc_env.agents.packing import pack, unpack
from amc_env.names import load


@pytest.fixture
def all_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even the smallest tensors lie apart, so that small networks show what large ones would."""
    monkeypatch.setattr(packing, "_LARGE_BYTES", 1)


@pytest.mark.usefixtures("all_apart")
def test_an_environment_in_memory_that_is_read_only_evaluates_the_same() -> None:
    env = env_of()
    env.pruner.hold_()
    packed = pack(env.alone())
    assert not any(memory.flags.writeable for memory in packed.memories)
    counts = {group.name: 4 for group in env.graph.groups}
    # Whatever wrote to its tensors in an evaluation would end this process here.
    assert unpack(packed).evaluate(counts) == env.evaluate(counts)


def test_large_tensors_are_not_copied_and_small_ones_are() -> None:
    large, small = torch.arange(2**17), torch.arange(4)
    packed = pack({"large": large, "small": small})
    (memory,) = packed.memories
    assert np.shares_memory(memory, large.numpy())
    found = unpack(packed)
    assert found["large"].data_ptr() == large.data_ptr()
    assert found["small"].data_ptr() != small.data_ptr()
    found["small"][0] = 7
    assert small[0] == 0
    assert len(packed.pickled) < 2**10


@pytest.mark.parametrize("is_large", [True, False])
def test_tensors_that_share_memory_share_it_afterwards(is_large: bool) -> None:
    whole = torch.zeros(2**17 if is_large else 8)
    found = unpack(pack([whole, whole[2:], whole.view(2, -1).t()]))
    assert len({tensor.untyped_storage().data_ptr() for tensor in found}) == 1
    assert [tensor.storage_offset() for tensor in found] == [0, 2, 0]
    assert found[2].stride() == (1, len(whole) // 2)


@pytest.mark.usefixtures("all_apart")
@pytest.mark.parametrize(
    "tensor",
    [
        torch.empty(0),
        torch.tensor(3.5, dtype=torch.float64),
        torch.randn(3, 4, dtype=torch.bfloat16).t(),
        torch.tensor([True, False]),
        torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
        torch.tensor([1 + 2j, 3 - 1j]).conj(),
        torch.eye(3).to_sparse(),
        torch.randn(3, requires_grad=True),
    ],
    ids=["empty", "scalar", "half", "boolean", "channels_last", "conjugate", "sparse", "gradient"],
)
def test_a_tensor_is_what_it_was(tensor: torch.Tensor) -> None:
    found = unpack(pack(tensor))
    assert found.requires_grad == tensor.requires_grad
    assert found.layout == tensor.layout
    torch.testing.assert_close(found, tensor, rtol=0, atol=0, check_stride=True)


def test_a_parameter_that_two_modules_share_stays_one() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    found = unpack(pack(net))
    assert found[0].weight is found[1].weight
    assert isinstance(found[0].weight, nn.Parameter)
    assert torch.equal(found[0].weight, net[0].weight)


def test_code_of_a_file_is_sent_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text("def reward(context):\n    return 0.25\n")
    packed = pack(load(f"{path}:reward"))
    assert b"own.py" in packed.pickled
    assert unpack(packed)(None) == 0.25


def test_what_cannot_be_sent_is_refused_in_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"cannot be sent to workers: .*lock.*give workers=1"):
        pack(threading.Lock())
