import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.utils.backend_registration

from amc_env.devices import solving_device

TESTS = Path(__file__).resolve().parent


@pytest.mark.slow
@pytest.mark.skipif(
    not hasattr(torch.utils.backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this version of torch knows no devices written in Python",
)
def test_everything_runs_where_the_model_is() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", str(TESTS / "on_second_device.py")],
        cwd=TESTS.parent,
        env={name: value for name, value in os.environ.items() if "PYTEST" not in name},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout


@pytest.mark.parametrize(("device", "expected"), [("cpu", "cpu"), ("mps", "cpu"), ("meta", "meta")])
def test_sums_and_solutions_in_float64_are_made_where_there_is_float64(
    device: str, expected: str
) -> None:
    assert solving_device(torch.device(device)) == torch.device(expected)
