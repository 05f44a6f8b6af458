import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch.utils.backend_registration

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
