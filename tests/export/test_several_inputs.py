"""A network with inputs by name goes into the formats that can hold them."""

import subprocess
import sys
from pathlib import Path

import pytest
import several_inputs
import torch
from several_inputs import TwoInputs, two_inputs

from amc_env import ChannelGraph
from amc_env.export.formats import export
from amc_env.policy import PrunedFacts, make_policy, save_pruned

MODEL = f"{several_inputs.__file__}:TwoInputs"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    graph = ChannelGraph(TwoInputs().eval(), two_inputs(2))
    kept = {"stem": torch.tensor([0, 2]), "body": torch.tensor([1, 2, 5])}
    policy = make_policy(graph, kept, criterion="l2", budget={}, seed=0)
    save_pruned(tmp_path, policy, graph.compact(kept), PrunedFacts(macs=1))
    return tmp_path


@pytest.mark.slow
def test_a_program_takes_inputs_by_name_for_any_batch(folder: Path) -> None:
    written = [*export(folder, ["torch_export"], out=folder, model=MODEL)]
    program = torch.export.load(written[0]).module()
    assert program(**two_inputs(5))["depth"].shape == (5, 3)


@pytest.mark.slow
def test_the_script_beside_the_weights_runs_it(folder: Path) -> None:
    out = folder / "out"
    out.mkdir()
    assert len([*export(folder, ["safetensors"], out=out, model=MODEL)]) == 4
    told = subprocess.run(
        [sys.executable, "load.py"], cwd=out, capture_output=True, text=True, check=True
    ).stdout
    assert told == "the network runs on inputs of [(2, 1, 6, 6), (2,), (2, 1)]\n"


def test_onnx_refuses_it_in_one_sentence(folder: Path) -> None:
    with pytest.raises(ValueError, match="TwoInputs takes its inputs by name or in nested groups"):
        list(export(folder, ["onnx"], out=folder, model=MODEL))
