"""Whether tests notice a fault: one-token faults, drawn with a seed, put into a clone of the core one at a time.

    make mutants N=150 SEED=1       (each takes as long as the tests of its folder: minutes; N=5 is a sample)

Prints each that no test of its folder notices, soak tests apart, and how many were killed. A survivor needs a test, or
a reason: some change nothing that counts.
"""

import ast
import random
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

TESTS = {
    "pipeline/tasks/*.py": ("tests/tasks", "tests/reference"),
    "pipeline/training/*.py": ("tests/reference", "tests/training"),
    "pipeline/comparison/**/*.py": ("tests/comparison",),
    "pipeline/evidence/*.py": ("tests/evidence",),
    "pipeline/runner/job_driver.py": ("tests/runner/test_job_driver.py",),
}
PAIRS = "FloorDiv Mult, Mod Mult, Mult Div, Lt LtE, Gt GtE, Eq NotEq, In NotIn, Is IsNot, Add Sub, And Or"
SWAPS = {one: other for pair in PAIRS.split(", ") for one, other in (pair.split(), pair.split()[::-1])}


def faults(tree: ast.Module) -> Iterator[tuple[Any, str, Any]]:
    """A node, which attribute of it to change, and to what."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            if not ast.unparse(node.value.func).endswith("say"):  # messages
                yield node, "value", ast.Constant(None)
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
            yield node, "value", not node.value if isinstance(node.value, bool) else node.value + 1
        elif isinstance(node, ast.Compare) and (other := SWAPS.get(type(node.ops[0]).__name__)):
            yield node, "ops", [getattr(ast, other)(), *node.ops[1:]]
        elif isinstance(node, ast.BinOp | ast.BoolOp) and (other := SWAPS.get(type(node.op).__name__)):
            yield node, "op", getattr(ast, other)()


def passes(root: Path, tests: tuple[str, ...]) -> bool:
    pytest = f"timeout 1200 {sys.executable} -m pytest -q -x -p no:cacheprovider -m not\\ soak {' '.join(tests)}"
    return subprocess.run(shlex.split(pytest), cwd=root, capture_output=True, check=False).returncode == 0


def main(n: int, seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root, survived, as_it_is = Path(folder), 0, cache(passes)
        subprocess.run(["git", "clone", "-q", ".", folder], check=True)
        files = [(path, tests) for glob, tests in TESTS.items() for path in sorted(root.glob(glob))]
        known = [(*file, k) for file in files for k, _ in enumerate(faults(ast.parse(file[0].read_text())))]
        for path, tests, k in random.Random(seed).sample(known, n):
            if not as_it_is(root, tests):
                sys.exit(f"{' '.join(tests)} fail without any fault")
            text = path.read_text()
            tree = ast.parse(text)
            node, attribute, value = list(faults(tree))[k]
            before = ast.unparse(node)
            setattr(node, attribute, value)
            path.write_text(ast.unparse(tree))
            if passes(root, tests):
                survived += 1
                print(f"survived: {path.relative_to(root)}:{node.lineno}: {before} -> {ast.unparse(node)}", flush=True)
            path.write_text(text)
    print(f"{n - survived} of {n} killed, seed {seed}")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
