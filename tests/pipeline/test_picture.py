from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from amc_env.pipeline.picture import Point, save_picture

SVG = "{http://www.w3.org/2000/svg}"


def point(network: str, accuracy: float, flops: int) -> Point:
    return Point(budget="", network=network, accuracy=accuracy, flops=flops, latency_ms=1.0)


POINTS = [
    point("original", 0.9, 1000),
    point("ddpg, repaired", 0.85, 700),
    point("uniform, repaired", 0.8, 690),
    point("ddpg, repaired", 0.6, 300),
    point("uniform, repaired", 0.5, 310),
    point("uniform, repaired", 0.7, 500),
]


def markers(svg: Path) -> dict[str, list[tuple[float, float]]]:
    """Where the markers of each line of a picture are, in its own coordinates."""
    groups = ET.parse(svg).iter(f"{SVG}g")
    lines = {g.get("id", ""): list(g.iter(f"{SVG}use")) for g in groups}
    return {
        name: [(float(use.get("x", "")), float(use.get("y", ""))) for use in lines[name]]
        for name in ("original", "ddpg-repaired", "uniform-repaired")
        if name in lines
    }


def test_every_network_is_a_point_of_its_line_at_its_place(tmp_path: Path) -> None:
    save_picture(POINTS, tmp_path / "picture")
    found = markers(tmp_path / "picture.svg")
    assert {name: len(places) for name, places in found.items()} == {
        "original": 1, "ddpg-repaired": 2, "uniform-repaired": 3,
    }  # fmt: skip
    # Places are a linear function of what is drawn; upwards is less in SVG.
    drawn = {name: [p for p in POINTS if p.network.replace(", ", "-") == name] for name in found}
    xs = [x for places in found.values() for x, _ in places]
    ys = [y for places in found.values() for _, y in places]
    flops = [p.flops for points in drawn.values() for p in sorted(points, key=lambda p: p.flops)]
    accuracies = [
        p.accuracy for points in drawn.values() for p in sorted(points, key=lambda p: p.flops)
    ]
    assert np.corrcoef(xs, flops)[0, 1] == pytest.approx(1.0)
    assert np.corrcoef(ys, accuracies)[0, 1] == pytest.approx(-1.0)


def test_the_picture_names_its_lines_and_axes_in_text(tmp_path: Path) -> None:
    save_picture(POINTS, tmp_path / "picture")
    text = (tmp_path / "picture.svg").read_text()
    for word in (
        "original",
        "ddpg, repaired",
        "uniform, repaired",
        "multiply-accumulates",
        "60.0%",
    ):
        assert word in text
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.size == (1050, 675)


def test_the_same_points_give_the_same_files(tmp_path: Path) -> None:
    save_picture(POINTS, tmp_path / "one")
    save_picture(POINTS, tmp_path / "two")
    for ending in ("png", "svg"):
        one, two = (tmp_path / f"{name}.{ending}" for name in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()
    assert len(list(tmp_path.iterdir())) == 4
