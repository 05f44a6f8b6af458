"""Functions stay short, and the hardest packages say why they do what they do."""

import ast
import io
import statistics
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "amc_env").rglob("*.py"))
PRAGMAS = ("# noqa", "# type:", "# fmt:")


def docstring_lines(tree: ast.Module) -> set[int]:
    """Numbers of the lines that docstrings take."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    firsts = [
        node.body[0]
        for node in ast.walk(tree)
        if isinstance(node, documented) and ast.get_docstring(node) is not None
    ]
    return {line for e in firsts for line in range(e.lineno, (e.end_lineno or e.lineno) + 1)}


def comments_and_code(path: Path) -> tuple[int, int]:
    """How many comments, a block counting once, and how many lines of code a file has."""
    text = path.read_text(encoding="utf-8")
    comments: set[int] = set()
    code: set[int] = set()
    skipped = (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            if not token.string.startswith(PRAGMAS):
                comments.add(token.start[0])
        elif token.type not in skipped:
            code |= set(range(token.start[0], token.end[0] + 1))
    blocks = [line for line in comments if line - 1 not in comments]
    return len(blocks), len(code - docstring_lines(ast.parse(text)))


def lengths() -> list[int]:
    """Lines of code of every function, its signature and docstring apart."""
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                body = node.body[1:] if ast.get_docstring(node) is not None else node.body
                if body:
                    found.append((body[-1].end_lineno or 0) - body[0].lineno + 1)
    return found


def test_functions_are_short() -> None:
    found = sorted(lengths())
    assert statistics.median(found) <= 8
    assert found[int(0.9 * len(found))] <= 25


@pytest.mark.parametrize("package", ["structure", "repair"])
def test_hard_packages_have_four_comments_in_a_hundred_lines(package: str) -> None:
    counted = [comments_and_code(p) for p in (ROOT / "amc_env" / package).glob("*.py")]
    comments, code = (sum(column) for column in zip(*counted, strict=True))
    assert comments >= 0.04 * code, f"{comments} comments in {code} lines of code"
