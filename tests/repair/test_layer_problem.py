"""A layer solved from its rows, beside the same layer solved from their products."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from amc_env.calibration.rows import pixels_under
from amc_env.repair.jobs import Job
from amc_env.repair.layer_problem import LayerProblem
from amc_env.repair.least_squares import nearest, nearest_of_rows
from amc_env.repair.survey import Places
from amc_env.repair.targets import map_rows

SAMPLES = 4
# Each layer has more inputs than the rows that four samples give, with its shape of one sample.
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(12, 5), (12,)),
    "without bias": (lambda: nn.Linear(12, 5, bias=False), (12,)),
    "convolution": (lambda: nn.Conv2d(6, 5, 3, padding=1), (6, 3, 3)),
    "grouped": (lambda: nn.Conv2d(12, 6, 3, groups=2), (12, 4, 4)),
}


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def solved(name: str, *, times: int, ridge: float, in_parts: bool) -> dict[str, Tensor]:
    """The solved layer when every sample has been given so many times."""
    make, shape = LAYERS[name]
    torch.manual_seed(0)
    layer = make().double()
    x = normal(SAMPLES, *shape, seed=1)
    aim = normal(*map_rows(layer, layer(x), None).shape, seed=2)
    mean = torch.zeros(len(layer.weight), dtype=torch.float64) if layer.bias is None else None
    problem = LayerProblem(
        Job(name=name, layer=layer, outputs=torch.arange(aim.shape[1]), mean=mean)
    )
    places = Places(positions=None, table=pixels_under(layer, x, None))
    batches = [(x, aim)] if not in_parts else zip(x.split(1), aim.chunk(SAMPLES), strict=True)
    for inputs, wanted in list(batches) * times:
        problem.add(inputs, wanted, places)
    assert (problem.rows < problem.inputs) is (times == 1), "the test is of no use"
    with torch.no_grad():
        problem.solve_(ridge=ridge)
    return {**layer.state_dict(), "mean": torch.zeros(1) if mean is None else mean}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("in_parts", [False, True])
@pytest.mark.parametrize("ridge", [1e-3, 1.0])
def test_few_rows_are_solved_as_their_products_are(name: str, in_parts: bool, ridge: float) -> None:
    # Rows that are given over and over pose the same problem, but there are many of them then.
    few, many = (solved(name, times=n, ridge=ridge, in_parts=in_parts) for n in (1, 20))
    for key, value in many.items():
        assert torch.allclose(few[key], value, rtol=1e-8, atol=1e-10), key


@pytest.mark.parametrize("penalty", [0.0, 0.1])
@pytest.mark.parametrize("flaw", ["none", "twins", "centred", "zeros"])
def test_rows_give_the_solution_nearest_the_anchor(flaw: str, penalty: float) -> None:
    rows, wanted, anchor = (
        normal(3, 7, 20, seed=0),
        normal(3, 7, 4, seed=1),
        normal(3, 20, 4, seed=2),
    )
    if flaw == "twins":
        rows[:, 1], wanted[:, 1] = rows[:, 0], wanted[:, 0]
    elif flaw == "centred":
        rows, wanted = rows - rows.mean(1, keepdim=True), wanted - wanted.mean(1, keepdim=True)
    elif flaw == "zeros":
        rows.zero_()
    by_rows = nearest_of_rows(rows, wanted, anchor, penalty)
    # Of the changes that do as well it is the smallest: rows of the ridge below those of X.
    ridge = penalty**0.5 * torch.eye(20, dtype=torch.float64).expand(3, 20, 20)
    missing = torch.cat([wanted - rows @ anchor, torch.zeros_like(anchor)], dim=1)
    direct = anchor + torch.linalg.pinv(torch.cat([rows, ridge], dim=1), rtol=1e-10) @ missing
    assert torch.allclose(by_rows, direct, rtol=1e-7, atol=1e-9)
    products = nearest(rows.mT @ rows, rows.mT @ wanted, anchor, penalty)
    assert torch.allclose(by_rows, products, rtol=1e-6, atol=1e-8)


def test_rows_in_single_precision_are_solved_in_double() -> None:
    rows, wanted, anchor = (
        normal(1, 30, 200, seed=0),
        normal(1, 30, 4, seed=1),
        normal(1, 200, 4, seed=2),
    )
    exact = nearest_of_rows(rows, wanted, anchor, 1e-3)
    single = nearest_of_rows(rows.float(), wanted.float(), anchor, 1e-3)
    assert single.dtype == torch.float64
    assert torch.allclose(single, exact, rtol=1e-4, atol=1e-5)
