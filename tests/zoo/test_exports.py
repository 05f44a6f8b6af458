"""Exports of many families of networks compute the same where this package is not installed."""

from pathlib import Path

import pytest
from exported import computed_elsewhere, difference
from zoo.architectures import ARCHITECTURES
from zoo.exports import FORMATS, PAGE, TOLERANCE, Row, leave_exports, page, read_rows


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("source", sorted({a.source for a in ARCHITECTURES.values()}))
def test_exports_compute_the_same_elsewhere(source: str, tmp_path: Path) -> None:
    # An export takes up to half a minute, so all networks would take longer than all other tests;
    # `python -m zoo.exports` is for the others.
    names = [n for n, a in ARCHITECTURES.items() if a.source == source and a.quick]
    wanted = [leave_exports(name, tmp_path / name) for name in names]
    found = computed_elsewhere([tmp_path / name for name in names])
    for name, outputs, (scores, failed) in zip(names, found, wanted, strict=True):
        assert failed == {}
        assert len(outputs) == len(FORMATS)
        assert max(difference(output, scores) for output in outputs.values()) <= TOLERANCE, name


def test_the_published_page_is_made_of_its_rows() -> None:
    rows, text = read_rows(), PAGE.read_text()
    version = text.partition("with torch ")[2].partition(",")[0]
    assert text == page(rows, version=version)
    assert set(rows) <= set(ARCHITECTURES)


def test_a_page_says_what_differs_what_fails_and_what_is_not_done() -> None:
    good = Row(name="lenet5", program="2e-07", weights="2e-07", onnx="0e+00", seconds="4")
    bad = Row(name="unet", program="2e-07", weights="2e-03", onnx="no operator", seconds="5")
    text = page({row.name: row for row in (bad, good)}, version="2.6")
    assert f"1 of {len(ARCHITECTURES)} architectures" in text
    assert "| lenet5 | amc_env | 1x28x28 | 2e-07 | 2e-07 | 0e+00 | 4 |\n" in text
    assert "| unet | tests | 3x16x16 | 2e-07 | fails | fails | 5 |\n" in text
    assert "- **unet**, weights: 2e-03\n- **unet**, onnx: no operator\n" in text
    assert "digits_cnn" in text.partition("Not done yet: ")[2]
    assert "lenet5" not in text.partition("Not done yet: ")[2]
