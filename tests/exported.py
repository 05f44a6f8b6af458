"""Pruned networks as a finished run leaves them, and what their exports compute elsewhere."""

import json
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from amc_env import ChannelGraph
from amc_env.policy import ModelSource, PrunedFacts, make_policy, save_pruned

# Runs where amc_env cannot be imported: on every folder what there is of the program, of the
# weights with the script beside them, and of ONNX.
SCRIPT = """
import importlib.util, json, sys
from pathlib import Path
sys.modules["amc_env"] = None
import onnxruntime, torch
torch.set_num_threads(1)

def program(folder, x):
    return torch.export.load(folder / "network.pt2").module()(x)

def weights(folder, x):
    spec = importlib.util.spec_from_file_location("load", folder / "load.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.load()(x)

def onnx(folder, x):
    session = onnxruntime.InferenceSession(folder / "network.onnx")
    (name,) = [given.name for given in session.get_inputs()]
    return torch.from_numpy(session.run(None, {name: x.numpy()})[0])

for folder in map(Path, json.loads(sys.argv[1])):
    found = {}
    for file, run in (("network.pt2", program), ("load.py", weights), ("network.onnx", onnx)):
        if (folder / file).exists():
            with torch.no_grad():
                y = run(folder, torch.load(folder / "x.pt"))
            found[file] = y if isinstance(y, torch.Tensor) else next(iter(y))
    torch.save(found, folder / "y.pt")
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


def computed_elsewhere(folders: list[Path]) -> list[dict[str, Tensor]]:
    """What each file in every folder gives for its ``x.pt``, from one fresh process for all."""
    names = json.dumps([str(folder) for folder in folders])
    subprocess.run([sys.executable, "-I", "-c", SCRIPT, names], check=True)
    return [torch.load(folder / "y.pt") for folder in folders]


def difference(given: Tensor, wanted: Tensor) -> float:
    """Largest difference relative to the largest entry."""
    return float((given - wanted).abs().max() / wanted.abs().max())
