"""A finished run as all formats read it."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils._pytree import tree_map

from amc_env.batches import Batch, arguments, mapped
from amc_env.export.loading import original_network
from amc_env.policy import Policy, checked_policy, with_weights
from amc_env.structure import ChannelGraph

# The batch that a program is made with: one sample would be taken for a constant.
_TRACED = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class Finished:
    """A finished run.

    Attributes:
        folder: Where its two files are.
        policy: Which channels are kept.
        graph: The structure of the original network.
        network: The pruned network with the weights of the run.
    """

    folder: Path
    policy: Policy
    graph: ChannelGraph
    network: nn.Module

    def samples(self, count: int) -> Batch:
        """Random inputs of the network, always the same for the same ``count``."""
        generator = torch.Generator().manual_seed(count)

        def drawn(given: Tensor) -> Tensor:
            shape = (count, *given.shape[1:])
            # A whole number may be an index, of which 0 is always one.
            if not given.is_floating_point():
                return given.new_zeros(shape)
            return torch.randn(shape, generator=generator).to(given)

        return mapped(drawn, self.graph.example)

    @cached_property
    def program(self) -> ExportedProgram:
        """The network as a program of ``torch.export`` for batches of any size.

        Raises:
            ValueError: The network cannot be exported.
        """
        inputs = self.samples(_TRACED)
        positional, named = arguments(inputs)
        try:
            return torch.export.export(
                self.network, positional, named, dynamic_shapes=any_batch(inputs), strict=False
            )
        except Exception as error:
            raise ValueError(
                f"{self.policy.model} cannot be exported for batches of any size: torch.export "
                f"says {one_line(error)}; use the weights with the network's own code instead"
            ) from error


def read_finished(folder: Path, model: str | None) -> Finished:
    """The finished run of a folder; ``model`` builds the original network.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is damaged, or the original network is another one or not known.
    """
    policy = checked_policy(folder)
    graph = policy.graph(original_network(policy, model))
    network = with_weights(graph.compact(policy.kept), folder)
    return Finished(folder=folder, policy=policy, graph=graph, network=network)


def any_batch(inputs: Batch) -> Any:
    """The ``dynamic_shapes`` of inputs whose first dimension is a batch of any size."""
    # Without a greatest size, PyTorch 2.6 finds a guard that the very largest number breaks.
    batch = torch.export.Dim("batch", max=2**31 - 1)
    positional, named = arguments(inputs)
    return tree_map(lambda _: {0: batch}, named or positional)


def one_line(error: Exception) -> str:
    """What an error says, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
