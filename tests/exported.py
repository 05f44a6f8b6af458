"""Pruned networks as a finished run leaves them, and what their exports compute elsewhere."""

import json
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from amc_env import ChannelGraph
from amc_env.policy import ModelSource, PrunedFacts, make_policy, save_pruned

# Runs where amc_env cannot be imported: on every folder the program, the weights and ONNX.
SCRIPT = """
import importlib.util, json, sys
sys.modules["amc_env"] = None
import onnxruntime, torch
torch.set_num_threads(1)
for folder in json.loads(sys.argv[1]):
    spec = importlib.util.spec_from_file_location("load", f"{folder}/load.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    x = torch.load(f"{folder}/x.pt")
    program = torch.export.load(f"{folder}/network.pt2").module()
    session = onnxruntime.InferenceSession(f"{folder}/network.onnx")
    (name,) = [given.name for given in session.get_inputs()]
    with torch.no_grad():
        found = [program(x), module.load()(x)]
    found.append(torch.from_numpy(session.run(None, {name: x.numpy()})[0]))
    first = [y if isinstance(y, torch.Tensor) else next(iter(y)) for y in found]
    torch.save(first, f"{folder}/y.pt")
"""


def leave_run(
    folder: Path, model: nn.Module, x: Tensor, *, source: ModelSource | None = None
) -> nn.Module:
    """Write a finished run's two files for a network with half of its channels, and return it."""
    graph = ChannelGraph(model, x)
    kept = {
        group.name: torch.arange(group.round_count(group.channels / 2)) for group in graph.groups
    }
    policy = make_policy(graph, kept, criterion="l2", budget={}, seed=0)
    compact = graph.compact(kept).eval()
    with torch.no_grad():
        for parameter in compact.parameters():
            # So that nobody can take slices of the original for these weights.
            parameter.mul_(1.01)
    facts = PrunedFacts(macs=1, accuracy=0.5, measured_on="the test data")
    known = {"source": source, "accuracy": facts.accuracy, "measured_on": facts.measured_on}
    save_pruned(folder, policy.model_copy(update=known), compact, facts)
    return compact


def computed_elsewhere(folders: list[Path]) -> list[list[Tensor]]:
    """What the exports in every folder give for its ``x.pt``, from one fresh process for all."""
    names = json.dumps([str(folder) for folder in folders])
    subprocess.run([sys.executable, "-I", "-c", SCRIPT, names], check=True)
    return [torch.load(folder / "y.pt") for folder in folders]


def difference(given: Tensor, wanted: Tensor) -> float:
    """Largest difference relative to the largest entry."""
    return float((given - wanted).abs().max() / wanted.abs().max())
