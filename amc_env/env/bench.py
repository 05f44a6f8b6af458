"""What rewards read of a compact network, on one split."""

from collections.abc import Mapping

from torch import nn

from amc_env.batches import Batch, count, first
from amc_env.data import Source
from amc_env.evaluation import Evaluator
from amc_env.rewards import NetworkLayers, RewardContext
from amc_env.structure import ChannelGraph


class Bench:
    """Prepares networks for rewards on one split, on which the original network is run once.

    Args:
        graph: The structure of the original network.
        evaluator: Runs networks on the split.
        layers: The layers whose feature maps rewards can read.
        mapped: Samples whose feature maps rewards read.
        seed: Seed of rewards that draw random numbers.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        evaluator: Evaluator,
        *,
        layers: NetworkLayers,
        mapped: Source,
        seed: int,
    ) -> None:
        self.evaluator = evaluator
        self._graph = graph
        self._layers = layers
        self._mapped = mapped
        self._seed = seed
        self._original_outputs = evaluator.outputs(graph.model)

    def context(
        self,
        compact: nn.Module,
        counts: Mapping[str, int],
        *,
        draw: float,
        outputs: Batch | None = None,
    ) -> RewardContext:
        """What rewards read of a network that keeps these numbers of channels.

        Args:
            compact: The network.
            counts: How many channels each group keeps.
            draw: A uniform random number from 0 to 1.
            outputs: Its outputs of the first samples, if they are known. Rewards are then computed
                on these samples only.
        """
        samples = len(self.evaluator.split) if outputs is None else count(outputs)
        is_whole = samples == len(self.evaluator.split)
        return RewardContext(
            compact=compact,
            original=self._graph.model,
            evaluator=self.evaluator if is_whole else self.evaluator.part(0, samples),
            original_outputs=first(self._original_outputs, samples),
            calibration=self._mapped,
            layers=self._layers,
            counts=counts,
            cost=self._graph.cost(counts),
            original_cost=self._graph.cost(),
            seed=self._seed,
            draw=draw,
            known=outputs,
        )
