import pytest

from amc_env.extras import need, need_package


def test_what_is_missing_is_named_with_the_command_that_installs_it() -> None:
    need("a table", "torch", "numpy", extra="tables")
    with pytest.raises(
        ValueError,
        match=r"^a table needs no_such_a and no_such_b, which is not installed; install the "
        r"extra: pip install 'amc-env\[tables\]'$",
    ):
        need("a table", "torch", "no_such_a", "no_such_b", extra="tables")


def test_a_package_without_an_extra_is_named_with_its_own_command() -> None:
    need_package("a table", "torch")
    with pytest.raises(ValueError, match=r"^a table needs no_such, .*: pip install no_such$"):
        need_package("a table", "no_such")
