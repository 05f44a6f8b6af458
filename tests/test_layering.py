"""The modules of amc_env stand in pipeline order, and each imports only what stands before it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

ORDER = (
    "names",
    "extras",
    "files",
    "checksums",
    "tensor_store",
    "metric",
    "batches",
    "devices",
    "memory",
    "randomness",
    "precision",
    "structure",
    "models",
    "tasks",
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
    "agents",
    "pipeline",
    "studies",
    "__main__",
)
INSIDE_STRUCTURE = (
    "sparsity",
    "channel_ids",
    "records",
    "naming",
    "meta_shapes",
    "ledger",
    "tracer",
    "stored_sizes",
    "tensor_operations",
    "computed_weights",
    "layer_operations",
    "sequence_operations",
    "channel_statistics",
    "partition",
    "grouping",
    "module_copy",
    "cutting",
    "costs",
    "search",
    "progress",
    "probing",
    "watching",
    "values",
    "analysis",
    "stored_weights",
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
def test_only_agents_import_a_learner(path: Path) -> None:
    learners = {"stable_baselines3", "sb3_contrib"}
    assert part(path) == "agents" or not learners & {n.split(".")[0] for n in imported(path)}


def test_importing_the_package_imports_no_agent() -> None:
    script = "import sys, amc_env; print([n for n in sys.modules if n.startswith('amc_env.')])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
