"""All public golden cases, in both precisions. None is skipped.

The note of ``ls_twin_inputs`` allows another weight than the one given, with the same residual and
the same sum over its twin inputs; the least-norm weight is held to nonetheless, as in any case.
"""

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


@pytest.mark.parametrize("precision", [64, 32])
@pytest.mark.parametrize("case", INDEX["cases"], ids=lambda case: case["name"])
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
