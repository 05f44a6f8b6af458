"""Every repair keeps the same numbers of channels, and ours are the package's own."""

import pytest
import torch
from rivals.small import chain, images, task

from benchmarks.rivals.methods import METHODS, REFERENCE, checked_methods
from benchmarks.rivals.outside import widths_of

COUNTS = {"0": 5, "3": 3}


@pytest.mark.parametrize("name", METHODS)
def test_a_repair_keeps_the_counts_and_the_original(name: str) -> None:
    given = task(COUNTS)
    model = METHODS[name].repair(given)
    assert widths_of(given.graph, model) == COUNTS
    assert model(images()).isfinite().all()
    assert torch.equal(given.graph.model(images()), chain()(images()))
    assert torch.equal(METHODS[name].repair(given)(images()), model(images()))


@pytest.mark.parametrize("name", [name for name in METHODS if "folding" not in name])
def test_all_but_folding_keep_the_same_filters(name: str) -> None:
    given = task(COUNTS)
    model = METHODS[name].repair(given)
    assert torch.equal(model[0].weight, given.graph.model[0].weight[given.kept["0"]])


def test_only_what_says_so_reads_images() -> None:
    given = task(COUNTS)
    other = task(COUNTS)
    object.__setattr__(other, "images", -given.images)
    for method in METHODS.values():
        if not method.reads_data:
            one, two = method.repair(given), method.repair(other)
            assert torch.equal(one(images()), two(images()))


def test_ours_are_those_of_the_pruner() -> None:
    given = task(COUNTS)
    plain = given.pruner.prune(COUNTS).model
    sequential = given.pruner.prune_sequentially(COUNTS)
    assert torch.equal(METHODS["plain"].repair(given)(images()), plain(images()))
    assert torch.equal(METHODS["sequential"].repair(given)(images()), sequential(images()))


def test_norms_estimated_again_are_those_of_the_pruned_network() -> None:
    given = task({"0": 5})
    model = METHODS["norms"].repair(given)
    seen = model[0](given.images)
    assert torch.allclose(model[1].running_mean, seen.mean((0, 2, 3)), atol=1e-5)


def test_the_reference_is_always_among_the_methods() -> None:
    assert list(checked_methods(["none"])) == ["none", REFERENCE]
    with pytest.raises(ValueError, match="method 'magic' does not exist; choose none, norms"):
        checked_methods(["magic"])
