"""A policy on other weights of the network that it was found for."""

from pathlib import Path

from amc_env.export.loading import original_network, source_of
from amc_env.models import load_checkpoint_
from amc_env.policy import POLICY_FILE, Policy, PrunedFacts, save_pruned


def replay(path: Path, model: str, *, out: Path, weights: Path | None = None) -> Policy:
    """Cut a network by a policy, write the policy and the cut weights, and return the policy.

    The weights are not repaired, so the accuracy of the policy is left out.

    Args:
        path: The file of the policy, or the folder that holds it.
        model: What builds the network, a name or the path of code.
        out: The folder for the two files.
        weights: A file of trained weights; by default those that the model comes with.

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
    save_pruned(out, policy, graph.compact(policy.kept), facts)
    return policy
