import pytest
import torch

from amc_env.pipeline.failures import explained


def fail(error: BaseException) -> None:
    with explained("working", smaller="the batch", saved=lambda: "much is in the folder"):
        raise error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
    ],
)
def test_memory_that_runs_out_is_one_sentence(error: Exception) -> None:
    wrapped = ValueError("the search failed")
    wrapped.__cause__ = error
    for raised in (error, wrapped):
        with pytest.raises(ValueError, match=r"^memory ran out while working; make") as found:
            fail(raised)
        assert str(found.value).endswith("make the batch smaller; much is in the folder")


def test_a_refusal_says_what_was_saved() -> None:
    for error in (ValueError("no"), PermissionError("no")):
        with pytest.raises(ValueError, match=r"^no; much is in the folder$"):
            fail(error)


def test_a_mistake_in_the_code_keeps_its_type_and_gets_a_note() -> None:
    with pytest.raises(KeyError) as found:
        fail(KeyError("name"))
    assert found.value.__notes__ == ["much is in the folder"]


def test_an_interruption_passes_and_where_nothing_was_saved_errors_are_as_they_were() -> None:
    with pytest.raises(KeyboardInterrupt):
        fail(KeyboardInterrupt())
    with pytest.raises(ValueError, match=r"^no$"), explained("working", smaller="the batch"):
        raise ValueError("no")
