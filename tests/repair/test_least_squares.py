import pytest
import torch
import torch.nn.functional as F
from direct_repair import reconstruct, unfold
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression
from torch import Tensor

from amc_env.repair.least_squares import (
    DirectSolver,
    FactoredSolver,
    NormalEquations,
    Solver,
    make_solver,
)

MANY = settings(max_examples=25, deadline=None, derandomize=True)
SEEDS = st.integers(0, 2**32 - 1)


def problem(seed: int, *, rows: int = 200, blocks: int = 5, width: int = 3) -> tuple[Tensor, ...]:
    """Rows that depend on each other, weights, and the columns of each block in random order."""
    generator = torch.Generator().manual_seed(seed)
    columns = blocks * width
    mix = torch.randn(columns, columns, dtype=torch.float64, generator=generator)
    x = torch.randn(rows, columns, dtype=torch.float64, generator=generator) @ mix
    weight = torch.randn(columns, 4, dtype=torch.float64, generator=generator)
    order = torch.randperm(blocks, generator=generator)
    return x, weight, torch.arange(columns).view(blocks, width)[order]


def equations(x: Tensor, weight: Tensor) -> NormalEquations:
    return NormalEquations.of_layer(x.mT @ x, weight)


def ridge_solution(x: Tensor, weight: Tensor, columns: Tensor, *, ridge: float) -> Tensor:
    """The best weights of some columns, straight from the rows."""
    part = x[:, columns]
    penalty = ridge * x.square().sum(0).mean()
    left = part.mT @ part + penalty * torch.eye(len(columns), dtype=torch.float64)
    right = part.mT @ (x @ weight) + penalty * weight[columns]
    solution: Tensor = torch.linalg.solve(left, right)
    return solution


def lost(x: Tensor, weight: Tensor, solver: Solver, count: int) -> float:
    """``|XW - Y| / |Y|`` with the first blocks kept, straight from the rows; 0 where Y is."""
    y = x @ weight
    got = x[:, solver.columns(count)] @ solver.weights(count)
    return float((got - y).norm() / y.norm().clamp_min(1e-300))


@MANY
@given(seed=SEEDS, blocks=st.integers(1, 8), width=st.integers(1, 9))
def test_every_count_equals_linear_regression(seed: int, blocks: int, width: int) -> None:
    x, weight, order = problem(seed, blocks=blocks, width=width)
    factored = make_solver(equations(x, weight), order, ridge=0.0)
    for count in range(1, blocks + 1):
        oracle = LinearRegression(fit_intercept=False)
        oracle.fit(x[:, factored.columns(count)].numpy(), (x @ weight).numpy())
        expected = torch.from_numpy(oracle.coef_).mT
        assert torch.allclose(factored.weights(count), expected, rtol=1e-6, atol=1e-8)


@MANY
@given(seed=SEEDS, ridge=st.sampled_from([1e-6, 1e-3, 0.1]))
def test_every_count_equals_a_direct_ridge_solution(seed: int, ridge: float) -> None:
    x, weight, order = problem(seed)
    problem_ = equations(x, weight)
    factored = make_solver(problem_, order, ridge=ridge)
    for count in range(1, len(order) + 1):
        columns = order[:count].flatten()
        expected = ridge_solution(x, weight, columns, ridge=ridge)
        assert torch.allclose(factored.weights(count), expected, rtol=1e-8, atol=1e-9)
        assert torch.allclose(factored.weights(count, torch.tensor([2])), expected[:, 2:3])
        assert torch.allclose(problem_.solve(columns, ridge=ridge), expected, rtol=1e-8, atol=1e-9)


@MANY
@given(seed=SEEDS, ridge=st.sampled_from([1e-6, 1e-3, 0.1]), data=st.data())
def test_any_blocks_equal_a_direct_ridge_solution(
    seed: int, ridge: float, data: st.DataObject
) -> None:
    x, weight, order = problem(seed)
    blocks = torch.tensor(data.draw(st.lists(st.integers(0, 4), min_size=1, unique=True)))
    factored = make_solver(equations(x, weight), order, ridge=ridge)
    columns = order[blocks].flatten()
    assert torch.equal(factored.columns_of(blocks), columns)
    expected = ridge_solution(x, weight, columns, ridge=ridge)
    assert torch.allclose(factored.weights_of(blocks), expected, rtol=1e-8, atol=1e-9)
    outputs = torch.tensor([3, 1])
    assert torch.allclose(factored.weights_of(blocks, outputs), expected[:, outputs])


def test_any_blocks_of_a_problem_without_a_factor_are_solved_too() -> None:
    x, weight, order = problem(1)
    x[:, order[1]] = x[:, order[0]]
    factored = make_solver(equations(x, weight), order, ridge=0.0)
    assert isinstance(factored, DirectSolver)
    blocks = torch.tensor([0, 1, 3])
    columns = order[blocks].flatten()
    oracle = torch.linalg.lstsq(x[:, columns], x @ weight, driver="gelsd").solution
    assert torch.allclose(
        x[:, columns] @ factored.weights_of(blocks), x[:, columns] @ oracle, atol=1e-6
    )


def test_blocks_whose_own_factor_fails_are_solved_without_one() -> None:
    # All pivots of this matrix are 1, and whole numbers are factored exactly; but its condition is
    # about 4^40, so that in another order the Cholesky factorisation breaks off.
    factor = torch.eye(40).double() - torch.ones(40, 40).double().tril(-1)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(40, 2, dtype=torch.float64, generator=generator)
    problem_ = NormalEquations.of_layer(factor @ factor.mT, weight)
    solver = make_solver(problem_, list(torch.arange(40)[:, None]), ridge=0.0)
    assert isinstance(solver, FactoredSolver)
    blocks = torch.arange(39).flip(0)
    got = solver.weights_of(blocks)
    assert got.norm() < 2 * weight.norm()
    best = problem_.residual(blocks, problem_.solve(blocks, ridge=0.0))
    assert torch.allclose(problem_.residual(blocks, got), best, rtol=1e-6)
    for output in range(2):
        some = solver.weights_of(blocks, torch.tensor([output]))
        assert torch.allclose(some, got[:, [output]], atol=1e-6)


@pytest.mark.parametrize("ridge", [0.0, 1e-13, 2e-14])
def test_twins_among_any_blocks_share_their_work(ridge: float) -> None:
    x, weight, order = problem(1)
    x[:, order[1]] = x[:, order[0]]
    solver = make_solver(equations(x, weight), order, ridge=ridge)
    got = solver.weights_of(torch.tensor([0, 1, 3]))
    columns = order[[0, 1, 3]].flatten()
    best = torch.linalg.lstsq(x[:, columns], x @ weight, driver="gelsd").solution
    assert got.norm() < 10 * weight.norm()
    assert torch.allclose(x[:, columns] @ got, x[:, columns] @ best, atol=1e-4)


@MANY
@given(seed=SEEDS, ridge=st.sampled_from([0.0, 1e-4, 0.1]))
def test_all_columns_give_the_original_weights_back(seed: int, ridge: float) -> None:
    x, weight, order = problem(seed)
    factored = make_solver(equations(x, weight), order, ridge=ridge)
    got = factored.weights(len(order))
    assert torch.allclose(got, weight[order.flatten()], rtol=1e-7, atol=1e-8)


@MANY
@given(seed=SEEDS, ridge=st.sampled_from([0.0, 1e-6, 1e-4, 1e-2, 1.0]), width=st.integers(1, 4))
def test_errors_are_those_of_the_rows(seed: int, ridge: float, width: int) -> None:
    x, weight, order = problem(seed, width=width)
    factored = make_solver(equations(x, weight), order, ridge=ridge)
    errors = factored.errors()
    for count in range(1, len(order) + 1):
        columns = factored.columns(count)
        got = (x[:, columns] @ factored.weights(count) - x @ weight).norm() / (x @ weight).norm()
        assert torch.isclose(errors[count - 1], got, rtol=1e-6, atol=1e-7)
    assert errors[-1] == 0


@MANY
@given(seed=SEEDS, ridge=st.sampled_from([0.0, 1e-3, 0.1]))
def test_errors_hold_for_a_target_that_no_weights_reach(seed: int, ridge: float) -> None:
    x, weight, order = problem(seed)
    generator = torch.Generator().manual_seed(seed)
    y = torch.randn(len(x), 4, dtype=torch.float64, generator=generator) + x @ weight
    foreign = NormalEquations(
        gram=x.mT @ x, cross=x.mT @ y, anchor=weight, target=y.square().sum(0)
    )
    factored = make_solver(foreign, order, ridge=ridge)
    errors = factored.errors()
    for count in range(1, len(order) + 1):
        got = (x[:, factored.columns(count)] @ factored.weights(count) - y).norm() / y.norm()
        assert torch.isclose(errors[count - 1], got, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("noise", [0.0, 1e-8])
def test_twins_seen_in_single_precision_do_not_blow_up(noise: float) -> None:
    x, weight, order = problem(1)
    x[:, order[1]] = x[:, order[0]] * (1 + noise)
    gram = (x.float().mT @ x.float()).double()
    factored = make_solver(NormalEquations.of_layer(gram, weight), order, ridge=0.0)
    for count in range(1, len(order) + 1):
        assert factored.weights(count).norm() < 100 * weight.norm()


def test_all_blocks_kept_is_exactly_the_original() -> None:
    x, weight, order = problem(0)
    for ridge in (0.0, 1e-4):
        problem_ = equations(x, weight)
        factored = make_solver(problem_, order, ridge=ridge)
        assert torch.equal(factored.weights(5), weight[order.flatten()])
        columns = torch.tensor([1])
        assert torch.equal(factored.weights(5, columns), weight[order.flatten()][:, columns])
        assert torch.equal(problem_.solve(torch.arange(15), ridge=ridge), weight)


def test_the_direct_solution_gives_some_outputs_alone() -> None:
    x, weight, _ = problem(3)
    columns, outputs = torch.tensor([7, 2, 11]), torch.tensor([3, 0])
    every = equations(x, weight).solve(columns, ridge=1e-3)
    some = equations(x, weight).solve(columns, ridge=1e-3, outputs=outputs)
    assert torch.allclose(some, every[:, outputs])


@pytest.mark.parametrize("count", [0, -1, 6])
def test_impossible_counts_are_refused(count: int) -> None:
    x, weight, order = problem(0)
    factored = make_solver(equations(x, weight), order, ridge=0.0)
    for ask in (factored.weights, factored.columns):
        with pytest.raises(ValueError, match=f"{count} blocks cannot be kept; give a number from"):
            ask(count)


@MANY
@given(seed=SEEDS, size=st.sampled_from([1e-3, 1e-1, 1.0]))
def test_no_perturbation_does_better(seed: int, size: float) -> None:
    x, weight, order = problem(seed)
    factored = make_solver(equations(x, weight), order, ridge=0.0)
    part, best = x[:, factored.columns(3)], factored.weights(3)
    generator = torch.Generator().manual_seed(seed)
    other = best + size * torch.randn(best.shape, dtype=torch.float64, generator=generator)
    assert (part @ best - x @ weight).norm() <= (part @ other - x @ weight).norm()


@pytest.mark.parametrize("ridge", [0.0, 1e-6, 1e-3])
@pytest.mark.parametrize("flaw", ["twin", "dead", "few rows", "all dead"])
def test_rank_deficient_problems_stay_near_the_original(flaw: str, ridge: float) -> None:
    x, weight, order = problem(0, rows=7 if flaw == "few rows" else 200)
    if flaw == "twin":
        x[:, order[1]] = x[:, order[0]]
    if flaw == "dead":
        x[:, order[2]] = 0
    if flaw == "all dead":
        x.zero_()
    factored = make_solver(equations(x, weight), order, ridge=ridge)
    for count in range(1, len(order) + 1):
        got = factored.weights(count)
        assert got.isfinite().all()
        assert got.norm() < 100 * weight.norm()
        assert lost(x, weight, factored, count) <= 1 + 1e-9
    assert factored.errors().isfinite().all()
    assert torch.allclose(factored.weights(len(order)), weight[order.flatten()], atol=1e-6)


def test_twins_share_what_a_lost_channel_did() -> None:
    # Two equal inputs, the second goes: the first does the work of both.
    generator = torch.Generator().manual_seed(0)
    column = torch.randn(50, 1, dtype=torch.float64, generator=generator)
    x, weight = torch.cat([column, column], 1), torch.tensor([[2.0], [3.0]], dtype=torch.float64)
    factored = make_solver(equations(x, weight), torch.tensor([[0], [1]]), ridge=1e-9)
    assert factored.weights(1).item() == pytest.approx(5.0)
    assert lost(x, weight, factored, 1) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"), [(3, 1, 1, 1), (3, 2, 0, 2), (1, 2, 0, 1)]
)
def test_unfold_is_what_a_convolution_multiplies(
    kernel: int, stride: int, padding: int, dilation: int
) -> None:
    x, w = torch.randn(2, 5, 9, 9), torch.randn(4, 5, kernel, kernel)
    rows = unfold(x, kernel=kernel, stride=stride, padding=padding, dilation=dilation)
    got = rows.flatten(1) @ w.flatten(1).mT
    expected = F.conv2d(x, w, stride=stride, padding=padding, dilation=dilation)
    assert torch.allclose(got, expected.permute(0, 2, 3, 1).flatten(0, 2), atol=1e-4)


def test_the_bias_is_taken_off_before_the_fit() -> None:
    x, bias = torch.randn(40, 3, 2, dtype=torch.float64), torch.tensor([5.0], dtype=torch.float64)
    w = torch.randn(6, 1, dtype=torch.float64)
    y = x.flatten(1) @ w + bias
    weight, residual = reconstruct(x, y, kept=torch.arange(3), bias=bias)
    assert torch.allclose(weight.flatten(), w.flatten())
    assert residual < 1e-12


def test_equations_that_are_not_finite_or_ridges_below_zero_are_refused() -> None:
    x, weight, order = problem(0)
    with pytest.raises(ValueError, match="gram holds NaN or infinite values"):
        NormalEquations.of_layer((x.mT @ x) * float("nan"), weight)
    with pytest.raises(ValueError, match=r"ridge is -0\.1"):
        make_solver(equations(x, weight), order, ridge=-0.1)


def test_single_precision_rows_are_solved_in_double() -> None:
    x, weight, _ = problem(5, rows=60)
    rows = x.float().view(60, 5, 3)
    got, _ = reconstruct(rows, (x @ weight).float(), kept=torch.arange(5))
    again, _ = reconstruct(rows.double(), (x @ weight).float().double(), kept=torch.arange(5))
    assert got.dtype == torch.float32
    assert torch.equal(got, again.float())


def test_equations_in_the_wrong_type_are_refused() -> None:
    with pytest.raises(ValueError, match=r"gram has the shape \(2, 2\) and type torch.float32"):
        NormalEquations(
            gram=torch.eye(2),
            cross=torch.zeros(2, 1, dtype=torch.float64),
            anchor=torch.zeros(2, 1, dtype=torch.float64),
            target=torch.zeros(1, dtype=torch.float64),
        )
