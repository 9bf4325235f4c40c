"""Whether tests notice a fault: one-token faults, drawn with a seed, put into a clone of the core one at a time.

    make mutants N=150 SEED=1       (each takes as long as the tests of its folder: minutes; N=5 is a sample)
    make mutants N=150 SEED=1 FROM=60       goes on behind the first 60

Prints each that no test of its folder notices, soak tests apart, and how many were killed. A survivor needs a test, or
a reason: some change nothing that counts.
"""

import ast
import os
import random
import re
import shlex
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from queue import Queue
from typing import Any

TESTS = {
    "pipeline/tasks/*.py": ("tests/tasks", "tests/reference"),
    "pipeline/training/*.py": ("tests/reference", "tests/training"),
    "pipeline/comparison/**/*.py": ("tests/comparison", "tests/cli/test_plan.py"),
    "pipeline/evidence/*.py": ("tests/evidence", "tests/cli/test_data.py"),
    "pipeline/runner/job_driver.py": ("tests/runner/test_job_driver.py", "tests/runner/test_jobs.py"),
}
PAIRS = "FloorDiv Mult, Mod Mult, Mult Div, Lt LtE, Gt GtE, Eq NotEq, In NotIn, Is IsNot, Add Sub, And Or"
SWAPS = {one: other for pair in PAIRS.split(", ") for one, other in (pair.split(), pair.split()[::-1])}


def computing(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but messages, which only people read, and decorators."""
    for node in ast.iter_child_nodes(tree):
        said = isinstance(node, ast.Expr) and ast.unparse(node).split("(")[0].endswith(("say", "say_once", "print"))
        if not said and not isinstance(node, ast.JoinedStr) and node not in getattr(tree, "decorator_list", ()):
            yield node
            yield from computing(node)


def faults(tree: ast.Module) -> Iterator[tuple[Any, str, Any]]:
    """A node, which attribute of it to change, and to what."""
    for node in computing(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield node, "value", ast.Constant(None)
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
            yield node, "value", not node.value if isinstance(node.value, bool) else node.value + 1
        elif isinstance(node, ast.Compare) and (other := SWAPS.get(type(node.ops[0]).__name__)):
            yield node, "ops", [getattr(ast, other)(), *node.ops[1:]]
        elif isinstance(node, ast.BinOp | ast.BoolOp) and (other := SWAPS.get(type(node.op).__name__)):
            yield node, "op", getattr(ast, other)()


def pytest_collection_modifyitems(items: list[Any]) -> None:
    """In the pytest processes, to which this file is a plugin too: the tests that noticed most so far come first."""
    best = os.environ["MUTANTS_BEST"].splitlines()
    items.sort(key=lambda item: best.index(item.nodeid) if item.nodeid in best else len(best))


def first_failure(root: Path, tests: tuple[str, ...], best: Counter[str]) -> str | None:
    """The test that fails in the copy `root`; None where all pass."""
    command = f"timeout 1800 {sys.executable} -m pytest -q -x -rfE -p no:cacheprovider -p mutants -m not\\ soak"
    words, first = [*shlex.split(command), *tests], "\n".join(name for name, _ in best.most_common())
    env = os.environ | {"PYTHONPATH": "benchmarks", "OMP_NUM_THREADS": "1", "MUTANTS_BEST": first}
    ended = subprocess.run(words, cwd=root, capture_output=True, text=True, env=env)
    if ended.returncode == 0:
        return None
    failed = re.search(r"^(?:FAILED|ERROR) (\S+?::.+?)(?: - .*)?$", ended.stdout, re.MULTILINE)
    return failed[1] if failed else "not even collected, or out of time"


def main(n: int, seed: int, start: int) -> None:
    files = [(path, tests) for glob, tests in TESTS.items() for path in sorted(Path().glob(glob))]
    known = [(*file, k) for file in files for k, _ in enumerate(faults(ast.parse(file[0].read_text())))]
    drawn = random.Random(seed).sample(known, n)[start:]
    best: Counter[str] = Counter()
    copies: Queue[Path] = Queue()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as workers:
        for k in range(os.cpu_count() or 1):
            copies.put(Path(folder) / str(k))
            subprocess.run(["git", "clone", "-q", ".", f"{folder}/{k}"], check=True)

        def killed_by(path: Path | None, tests: tuple[str, ...], k: int = 0) -> tuple[str, str | None]:
            """What the fault is, and the first test that notices it; without a path, of no fault."""
            root, fault = copies.get(), "no fault"
            if path is not None:
                before_it = (root / path).read_text()
                tree = ast.parse(before_it)
                node, attribute, value = list(faults(tree))[k]
                before = ast.unparse(node)
                setattr(node, attribute, value)
                (root / path).write_text(ast.unparse(tree))
                fault = f"{path}:{node.lineno}: {before} -> {ast.unparse(node)}"
            test = first_failure(root, tests, best)
            if path is not None:
                (root / path).write_text(before_it)
                best.update([test] if test else [])
            copies.put(root)
            return fault, test

        for _, test in workers.map(partial(killed_by, None), {tests for _, tests, _ in drawn if not start}):
            if test:
                sys.exit(f"{test} fails without any fault")
        killed = 0
        for fault, test in workers.map(killed_by, *zip(*drawn, strict=True)):
            killed += test is not None
            print(f"{'killed' if test else 'SURVIVED'}: {fault}{f' by {test}' if test else ''}", flush=True)
    print(f"{killed} of {len(drawn)} killed, seed {seed}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
