"""All public golden cases, in both precisions."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden import adapter

HERE = Path(__file__).parent
INDEX = json.loads((HERE / "golden_public.json").read_text())
DATA = np.load(HERE / "golden_public.npz")
# Written when the criteria that need them are.
NOT_YET = {
    *("sde", "label_grid", "joint_ame", "mi_ame", "class_mi", "class_mi_excess"),
    *("gram", "renyi_entropy", "renyi_channel_entropy", "hrel_mi"),
}
CASES = [
    pytest.param(case, id=case["name"])
    for case in INDEX["cases"]
    if case["function"] not in NOT_YET
]


@pytest.mark.parametrize("precision", [64, 32])
@pytest.mark.parametrize("case", CASES)
def test_case(case: dict[str, Any], precision: int) -> None:
    dtype = torch.float64 if precision == 64 else torch.float32
    inputs = {
        name: adapter.as_tensor(
            [DATA[k] for k in key] if isinstance(key, list) else DATA[key], dtype
        )
        for name, key in case["inputs"].items()
    }
    got = getattr(adapter, case["function"])(**inputs, **case["params"])
    got = got if isinstance(got, tuple) else (got,)
    relative, absolute = case[f"tol{precision}"]
    for value, key in zip(got, case["expected"], strict=True):
        array = np.asarray(value.numpy() if isinstance(value, torch.Tensor) else value, dtype=float)
        expected = DATA[key].astype(float)
        assert array.shape == expected.shape
        assert np.allclose(array, expected, rtol=relative, atol=absolute, equal_nan=True)


def test_what_is_not_written_yet_is_listed() -> None:
    asked = {case["function"] for case in INDEX["cases"]}
    assert {name for name in asked if not hasattr(adapter, name)} == NOT_YET
