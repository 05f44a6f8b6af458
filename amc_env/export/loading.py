"""The network of a finished run, in one call."""

from pathlib import Path

from torch import nn

from amc_env.models import MODEL, find_model
from amc_env.policy import ModelSource, Policy, checked_policy, with_weights


def load(folder: str | Path, model: str | nn.Module | None = None) -> nn.Module:
    """The pruned network with its repaired or fine-tuned weights, in evaluation mode.

    Args:
        folder: The folder of a run, or one that ``python -m amc_env export`` has written.
        model: The original network, or what builds it: a name or the path of one's own code. By
            default the name that the policy holds. Its weights do not matter, and an object is not
            modified; the result is on its device.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is damaged or was changed, the two do not belong together, the model
            cannot be found by name, or the policy belongs to another network.
    """
    policy = checked_policy(folder)
    return with_weights(policy.apply(original_network(policy, model)), folder)


def original_network(policy: Policy, given: str | nn.Module | None = None) -> nn.Module:
    """The network that a policy belongs to: what is given, or what the policy names.

    Raises:
        ValueError: Nothing is given, and the policy holds no name that can be looked up.
    """
    if given is None:
        source = _named_source(policy)
    elif isinstance(given, str):
        source = source_of(policy, given)
    else:
        return given
    return find_model(source.name, source.options).model


def source_of(policy: Policy, name: str) -> ModelSource:
    """What builds a network of this name, with the policy's options if they belong to the name."""
    known = policy.source
    return known if known and known.name == name else ModelSource(name=name)


def _named_source(policy: Policy) -> ModelSource:
    """What the policy names, unless that is the path of code."""
    source = policy.source
    if source is None:
        raise ValueError(
            f"the policy does not say what builds its network, a {policy.model}; give the original "
            "network to load(FOLDER, MODEL), or --model MODEL on the command line"
        )
    # Whoever has written the file could otherwise make its reader run any code.
    if not MODEL.has_name(source.name):
        raise ValueError(
            f"the policy's network is built by {source.name}, which is no name of a known model, "
            f"and code that a file names is not run; give it yourself: load(FOLDER, "
            f"{source.name!r}), or --model {source.name} on the command line"
        )
    return source
