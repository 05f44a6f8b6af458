"""A policy on other weights of the network that it was found for."""

from pathlib import Path

import torch

from amc_env.batches import Batch
from amc_env.data.datasets import Dataset, arrays, image_folder, load_dataset
from amc_env.export.loading import original_network, source_of
from amc_env.models import load_checkpoint_
from amc_env.policy import POLICY_FILE, Policy, PrunedFacts, save_pruned
from amc_env.repair.foreign import repair


def images_of(data: str, number: int) -> Batch:
    """Random training images to repair a network on, always the same for the same data.

    Args:
        data: A data set by its name, an ``.npz`` of arrays, or a folder of images.
        number: How many; all if there are fewer.

    Raises:
        ValueError: The data does not exist or cannot be read.
    """
    train = _dataset(data).train
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    return train.take(order[:number]).first(number)


def replay(
    path: Path,
    model: str,
    *,
    out: Path,
    weights: Path | None = None,
    images: Batch | None = None,
) -> Policy:
    """Cut a network by a policy, write the policy and the weights, and return the policy.

    The accuracy of the policy is that of other weights, so it is left out.

    Args:
        path: The file of the policy, or the folder that holds it.
        model: What builds the network, a name or the path of code.
        out: The folder for the two files.
        weights: A file of trained weights; by default those that the model comes with.
        images: Training images on which the cut network is repaired; it is only cut without.

    Raises:
        OSError: A file is missing or cannot be written.
        ValueError: The folder holds a policy already, a file cannot be read, or the policy belongs
            to another network.
    """
    if (out / POLICY_FILE).exists():
        raise ValueError(f"{out} holds a {POLICY_FILE} already; give another folder as --out")
    policy = Policy.load(path / POLICY_FILE if path.is_dir() else path)
    network = original_network(policy, model)
    if weights:
        load_checkpoint_(network, weights)
    graph = policy.graph(network)
    known = {
        "source": source_of(policy, model),
        "accuracy": None,
        "metric": None,
        "measured_on": None,
    }
    policy = policy.model_copy(update=known)
    facts = PrunedFacts(macs=graph.cost(policy.counts).flops)
    compact = graph.compact(policy.kept)
    if images is not None:
        compact = repair(compact, network.eval(), images)
    save_pruned(out, policy, compact, facts)
    return policy


def _dataset(data: str) -> Dataset:
    if Path(data).is_file():
        return arrays(path=data)
    return image_folder(path=data) if Path(data).is_dir() else load_dataset(data)
