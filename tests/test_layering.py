"""The modules of amc_env stand in pipeline order, and each imports only what stands before it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

ORDER = (
    "names",
    "files",
    "devices",
    "memory",
    "randomness",
    "precision",
    "structure",
    "models",
    "data",
    "information",
    "calibration",
    "folding",
    "criteria",
    "repair",
    "masks",
    "evaluation",
    "latency",
    "augmentation",
    "training",
    "policy",
    "export",
    "rewards",
    "env",
    "trust",
    "report",
    "__main__",
)
INSIDE_STRUCTURE = (
    "sparsity",
    "channel_ids",
    "records",
    "ledger",
    "tracer",
    "stored_sizes",
    "tensor_operations",
    "layer_operations",
    "grouping",
    "module_copy",
    "cutting",
    "costs",
    "search",
    "progress",
    "probing",
    "values",
    "analysis",
    "graph",
    "changes",
    "inspection",
)


def imported(path: Path) -> set[str]:
    """Dotted names of the modules that a file imports, wherever in the file it does."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def part(path: Path) -> str:
    return path.relative_to(ROOT / "amc_env").with_suffix("").parts[0]


MODULES = [p for p in sorted((ROOT / "amc_env").rglob("*.py")) if part(p) != "__init__"]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_imports_only_what_stands_before_it(path: Path) -> None:
    own = ORDER.index(part(path))
    for name in imported(path):
        if name.startswith("amc_env."):
            assert ORDER.index(name.split(".")[1]) <= own, name


@pytest.mark.parametrize("name", INSIDE_STRUCTURE)
def test_the_modules_of_structure_are_in_order_too(name: str) -> None:
    own = INSIDE_STRUCTURE.index(name)
    for other in imported(ROOT / "amc_env" / "structure" / f"{name}.py"):
        if other.startswith("amc_env.structure."):
            assert INSIDE_STRUCTURE.index(other.split(".")[2]) < own, other


def test_all_modules_of_structure_are_in_the_order() -> None:
    files = {p.stem for p in (ROOT / "amc_env" / "structure").glob("*.py")} - {"__init__"}
    assert files == set(INSIDE_STRUCTURE)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_amc_env_needs_no_agent(path: Path) -> None:
    foreign = {"agents", "stable_baselines3", "sb3_contrib"}
    assert not foreign & {name.split(".")[0] for name in imported(path)}
