"""Figures of runs for papers, from folders with the files that a run leaves."""

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from PIL import Image

from amc_env.__main__ import main
from amc_env.report.details import DETAILS_FILE, Details, GroupDetails
from amc_env.report.figures import write_figures
from amc_env.structure.changes import LayerChange

GROUPS = {"first": (4, 3), "second & last": (6, 2)}
METRICS = {
    "network_flops": {"original": 1000, "ddpg, repaired": 500},
    "test_accuracies": {"original": 0.9, "ddpg, repaired": 0.8},
}
EPISODES = """number,reward,accuracy,sparsity/first,sparsity/second & last
1,0.5,0.6,0.25,0.5
2,0.4,0.5,0.0,0.9
3,0.7,0.8,0.25,0.6
"""
NAMES = ("channels", "cost", "episodes", "errors", "latency", "policies")


def leave(folder: Path) -> Path:
    folder.mkdir()
    groups = [
        GroupDetails(name=name, channels=channels, kept=kept, scores=[1.0] * channels,
                     errors=[1.0 - n / channels for n in range(1, channels + 1)])
        for name, (channels, kept) in GROUPS.items()
    ]  # fmt: skip
    layer = LayerChange(
        layer="conv", group="first", channels=4, kept=3, sparsity=0.25,
        macs_before=1000, macs_after=500, params_before=9, params_after=4,
    )  # fmt: skip
    details = Details(groups=groups, layers=[layer], latencies=[("conv", 0.5, 0.25)])
    (folder / DETAILS_FILE).write_text(details.model_dump_json())
    (folder / "metrics.json").write_text(json.dumps(METRICS))
    (folder / "config.yaml").write_text("seed: 0\n")
    (folder / "episodes.csv").write_text(EPISODES)
    return folder


def words(svg: Path) -> set[str]:
    """The text that a figure shows."""
    return {"".join(node.itertext()).strip() for node in ET.parse(svg).iter() if "text" in node.tag}


def test_a_run_has_six_figures_in_both_formats(tmp_path: Path) -> None:
    written = write_figures([leave(tmp_path / "run")], tmp_path / "figures")
    stems = sorted({path.stem for path in written})
    assert tuple(stems) == NAMES
    assert len(written) == 12
    for path in written:
        if path.suffix == ".png":
            with Image.open(path) as image:
                assert min(image.size) > 300
                # Something is drawn.
                assert len(image.convert("RGB").getcolors(maxcolors=2**24) or []) > 10
    shown = {path.stem: words(path) for path in written if path.suffix == ".svg"}
    for name in ("channels", "policies", "errors"):
        assert {*GROUPS} <= shown[name]
    assert {"conv", "multiply-accumulates", "original", "pruned"} <= shown["cost"]
    assert {"conv", "milliseconds", "original", "pruned"} <= shown["latency"]
    assert {"reward", "best until then", "episode"} <= shown["episodes"]


def test_the_same_run_gives_the_same_files(tmp_path: Path) -> None:
    folder = leave(tmp_path / "run")
    one, other = (write_figures([folder], tmp_path / name) for name in ("a", "b"))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]


def test_several_runs_are_compared_and_have_a_folder_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [str(leave(tmp_path / name)) for name in ("one", "two")]
    out = tmp_path / "figures"
    page = ["--out", str(tmp_path / "page.html")]
    missing = [str(tmp_path / "none"), *page, "--figures", str(out)]
    assert main(["report", *runs[:1], *missing]) == 2
    assert not out.exists()
    assert "there is no metrics.json" in capsys.readouterr().err
    written = write_figures([Path(run) for run in runs], out)
    assert {path.parent.name for path in written} == {"figures", "1-one", "2-two"}
    assert {"networks", "Pareto front"} <= words(out / "accuracy_and_cost.svg")
