"""Masks of the smallest weights, to compare the pruned network with; they make nothing smaller."""

import copy
from dataclasses import dataclass, replace

from amc_env import ChannelPruningEnv
from amc_env.data.datasets import Dataset
from amc_env.masks import Masked, fix_masks_, with_magnitude_masks
from amc_env.pipeline.finetuning import fine_tuning_split, finetune_
from amc_env.pipeline.run import Network, Run
from amc_env.pipeline.screen import say


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskedNetwork:
    """A network with masks, and how it is called in tables."""

    name: str
    masked: Masked


def mask(run: Run, env: ChannelPruningEnv, last: Network, data: Dataset) -> list[MaskedNetwork]:
    """The original network with masks at the MACs of a pruned one, in every way that is asked for.

    Each is trained as the run fine-tunes, if it does, with its masks held. They are shown beside
    the others and never exported. An interruption leaves those until then. Where so few MACs cannot
    be reached by masks, there are none, which is said.

    Raises:
        ValueError: A training failed.
    """
    macs, found = env.graph.cost(last.result.best.counts).flops, list[MaskedNetwork]()
    for way in run.config.masks:
        if not run.is_complete:
            break
        name = f"{way} magnitude masks"
        try:
            masked = with_magnitude_masks(env.graph, way, macs=macs)
        except ValueError as error:
            # Known only now that everything else is done, which is not to be lost.
            say(f"no {name}: {error}")
            continue
        say(
            f"{name}: {masked.sparsity:.1%} of the weights are masked, and those that are left "
            f"have {masked.macs} MACs; the network is not smaller"
        )
        both = [MaskedNetwork(name=name, masked=masked), *_finetuned(run, env, masked, data, way)]
        for network in both:
            fix_masks_(network.masked.model)
        found += both
    return found


def _finetuned(
    run: Run, env: ChannelPruningEnv, masked: Masked, data: Dataset, way: str
) -> list[MaskedNetwork]:
    """A copy that is trained with its masks, if the run fine-tunes."""
    if not run.config.finetune.epochs:
        return []
    network = copy.deepcopy(masked.model)
    fitted, _ = fine_tuning_split(run, data)
    if not finetune_(run, network, env.graph.model, fitted, name=f"masks-{way}"):
        return []
    return [
        MaskedNetwork(
            name=f"{way} magnitude masks, finetuned", masked=replace(masked, model=network)
        )
    ]
