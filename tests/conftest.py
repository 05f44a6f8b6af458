"""Settings every test runs under."""

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with development data and weights, where a checkout has one beside it."""
    if not SHARED.is_dir():
        pytest.skip("needs the development data and weights, which are not beside this checkout")
    return SHARED
