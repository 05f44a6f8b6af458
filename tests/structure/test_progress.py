"""Progress is shown when an analysis takes long, and only then."""

import torch
from structure.networks import NETWORKS, build

from amc_env import ChannelGraph
from amc_env.structure.progress import progress_shown


def test_a_quick_analysis_shows_nothing() -> None:
    lines: list[str] = []
    with progress_shown(lines.append, after_s=60.0):
        ChannelGraph(*build(NETWORKS, "residual"))
    assert lines == []


def test_a_long_analysis_shows_how_far_it_is() -> None:
    lines: list[str] = []
    model, _ = build(NETWORKS, "residual")
    with progress_shown(lines.append, after_s=0.0):
        ChannelGraph(model, torch.zeros(2, 3, 8, 8))
    assert lines[0].startswith("analysing the structure, 0 s: ")
    assert any("2 are tried together" in line for line in lines)
    assert any("values" in line for line in lines)
    shown = len(lines)
    ChannelGraph(model, torch.zeros(2, 3, 8, 8))
    assert len(lines) == shown
