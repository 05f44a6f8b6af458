"""Networks of a run, compared image by image."""

import csv
from pathlib import Path

from benchmarks.paired import read, table


def test_differences_are_paired_with_the_network_above(tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["label", "is_original", "original", "uniform, repaired"])
        # Of 100 images the first knows all but ten, the second all but these and ten more.
        writer.writerows([7, i % 2, 0 if i < 10 else 7, 0 if i < 20 else 7] for i in range(100))
    heads, _, original, repaired = table(read(path)).splitlines()
    assert heads == (
        "| network | 50 originals | 50 originals, ahead by | all 100 | all 100, ahead by |"
    )
    assert original == "| original | 90.00 |  | 90.00 |  |"
    cells = [cell.strip() for cell in repaired.strip("|").split("|")]
    assert cells[0] == "uniform, repaired"
    assert cells[1:4:2] == ["80.00", "80.00"]
    for cell in cells[2::2]:
        mean, low, _, high = cell.replace("(", "").replace(")", "").split()
        assert float(mean) == -10.0
        assert -25 < float(low) < -10 < float(high) < 0
