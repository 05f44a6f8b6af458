"""The pruned network of this folder, with PyTorch and safetensors alone.

``python load.py`` runs it once on random inputs; from Python, ``from load import load``.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import load_model
from torch.utils._pytree import tree_leaves

HERE = Path(__file__).parent


def load(folder: Path = HERE) -> torch.nn.Module:
    """The network, in evaluation mode: ``network.pt2`` with the weights of ``pruned.safetensors``.

    It takes batches of any size. Other weights of the same names and shapes, such as yours after
    further training, may take the place of the file's.
    """
    network = torch.export.load(folder / "network.pt2").module()
    load_model(network, folder / "pruned.safetensors")
    return network


if __name__ == "__main__":
    inputs, named = torch.export.load(HERE / "network.pt2").example_inputs
    with torch.no_grad():
        load()(*inputs, **named)
    shapes = [tuple(x.shape) for x in tree_leaves((inputs, named))]
    sys.stdout.write(f"the network runs on inputs of {shapes}\n")
