"""Environments that are sent to other processes, with their large tensors apart.

Pickle's protocol 5 leaves large memory out of the bytes that it writes. Whoever reads these bytes
gives the memory back, and the tensors lie in it: many processes can read one copy.
"""

import io
import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import cloudpickle
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, UntypedStorage
from typing_extensions import override

from amc_env.names import modules_of_files

Memory = NDArray[np.uint8]

# Smaller tensors are copied by every process, which may then write to them: what a network writes
# to itself, such as counters and running statistics, is small.
_LARGE_BYTES = 2**16


@dataclass(frozen=True, kw_only=True, eq=False)
class Packed:
    """Something that was pickled.

    Attributes:
        pickled: All of it but its large memory.
        memories: Its large memory, in the order in which it is read; nobody may write to it.
    """

    pickled: bytes
    memories: tuple[Memory, ...]


def pack(thing: object) -> Packed:
    """Pickle something, with the memory of its large tensors apart and not copied.

    Raises:
        ValueError: It holds something that cannot be sent to another process.
    """
    memories: list[Memory] = []

    def is_small(buffer: pickle.PickleBuffer) -> bool:
        memory = np.frombuffer(buffer.raw(), dtype=np.uint8)
        if memory.nbytes < _LARGE_BYTES:
            return True
        memory.flags.writeable = False
        memories.append(memory)
        return False

    file = io.BytesIO()
    with sendable():
        _Pickler(file, protocol=5, buffer_callback=is_small).dump(thing)
    return Packed(pickled=file.getvalue(), memories=tuple(memories))


def unpack(packed: Packed) -> Any:
    """What was packed. Its large tensors lie in the memory that is given with it."""
    return pickle.loads(packed.pickled, buffers=packed.memories)


@contextmanager
def sendable() -> Iterator[None]:
    """Pickle in the block what another process reads.

    Classes and functions of files that no other process can import are sent as they are.

    Raises:
        ValueError: Something cannot be pickled.
    """
    modules = modules_of_files()
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    # Whatever is refused may be of a user's own class, which raises what it likes.
    except Exception as error:
        raise ValueError(
            f"the environment cannot be sent to workers: {error}; give workers=1, or a model, "
            "reward and task that can be pickled"
        ) from error
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Writes a tensor as its storage and its place there, and the storage as plain memory.

    Pickle writes every object once, so tensors that share a storage share it afterwards too.
    """

    @override
    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, UntypedStorage) and obj.device.type == "cpu":
            return _storage, (torch.empty(0, dtype=torch.uint8).set_(obj).numpy(),)
        if type(obj) is Tensor and _is_plain(obj):
            place = (obj.dtype, obj.storage_offset(), obj.size(), obj.stride())
            return _tensor, (obj.untyped_storage(), *place, obj.requires_grad)
        return super().reducer_override(obj)


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is no more than a part of a storage in the memory of the CPU."""
    is_dense = tensor.layout is torch.strided and not tensor.is_quantized
    is_as_stored = not tensor.is_conj() and not tensor.is_neg()
    return tensor.device.type == "cpu" and is_dense and is_as_stored and not vars(tensor)


def _storage(memory: Memory) -> UntypedStorage:
    if memory.flags.writeable:
        # Small memory lies anywhere in the pickled bytes. PyTorch's own begins at multiples of 64
        # bytes, on which the last bits of a sum may depend.
        return torch.from_numpy(memory).clone().untyped_storage()
    with warnings.catch_warnings():
        # PyTorch warns that writing to it is undefined. Nothing writes to large tensors.
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(memory).untyped_storage()


def _tensor(
    storage: UntypedStorage,
    dtype: torch.dtype,
    offset: int,
    size: torch.Size,
    stride: tuple[int, ...],
    requires_grad: bool,  # noqa: FBT001 (pickle gives all arguments by position)
) -> Tensor:
    tensor = torch.empty(0, dtype=dtype).set_(storage, offset, size, stride)
    return tensor.requires_grad_(requires_grad)
