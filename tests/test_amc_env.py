"""The package itself: public names come when they are used, and its parts need no others."""

import subprocess
import sys

import pytest

import amc_env


def test_every_public_name_is_there() -> None:
    for name in amc_env.__all__:
        assert getattr(amc_env, name).__module__.startswith("amc_env."), name


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="'amc_env' has no attribute 'Grph'"):
        getattr(amc_env, "Grph")  # noqa: B009 -- mypy would refuse the attribute.


def test_names_need_no_torch_and_the_environment_is_registered() -> None:
    script = (
        "import sys, gymnasium, amc_env.names, amc_env.files\n"
        "assert 'torch' not in sys.modules\n"
        "gymnasium.spec('AMC/ChannelPruning-v0')"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
