"""Checksums of tensors, by which files and networks are told apart."""

import hashlib
import json
from collections.abc import Mapping

import torch
from torch import Tensor, nn


def checksum(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors with their names, types and shapes, and of the other metadata."""
    facts = {name: value for name, value in metadata.items() if name != "content_sha256"}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        # Read as bytes, because NumPy has no bfloat16.
        plain = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(plain.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a network's state; what else modules keep in it is left out."""
    return {name: x for name, x in model.state_dict().items() if isinstance(x, Tensor)}
