"""Do the tests notice mistakes in the modules that decide claims, scores and lineage?

    python benchmarks/mutation.py                        # mutations.yaml, then mutmut on every module of TESTS
    python benchmarks/mutation.py named                  # mutations.yaml alone
    python benchmarks/mutation.py evaluate/intervals --sample 40 --again

Each mistake of mutations.yaml is made in a copy of the package, where the test beside it must fail. mutmut changes a
module in every way it knows (`make mutation` installs it) and runs, for each mutant, the tests of the module's files
that reach the changed function. Mutants are kept under outputs/mutation: a second call goes on with what is left;
`--again` repeats the mutants that survived, after tests were added. `--sample` draws that many mutants of each module.
Prints a JSON line for each mistake and each module, with the mutants that survived. Tests that ran out of time are
counted apart, as a busy machine does that, too. Once the module or its tests change, all its mutants are tried anew.
`mutmut show NAME` in the module's folder shows a mutant. mutmut leaves functions with decorators alone (properties, context managers, caches).
"""

import argparse
import contextlib
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

HOME = Path(__file__).resolve().parents[1]
MISTAKES = Path(__file__).with_name("mutations.yaml")
COPIED = (
    "tests",
    "notebooks",
    "params",
    "docs",
    "benchmarks",
    "Makefile",
)  # beside the package, where tests look for them
# The deciding modules, quick ones first, and the files with their tests.
TESTS = {
    "data/splits": ("splits",),
    "model/losses": ("losses",),
    "evaluate/intervals": ("intervals", "deciding"),
    "evaluate/metrics": ("metrics", "readings"),
    "evaluate/claims": ("board", "deciding", "design"),
    "evaluate/scores": ("scores", "deciding"),
    "evaluate/statements": ("statements", "judge", "readings"),
    "run/stale": ("graph",),
    "model/mixed": ("mixed",),
    "model/lineage": ("lineage", "stack"),
    "model/stack": ("stack", "lineage", "kept"),
    "model/batches": ("batches",),
}
STATS = "mutants/mutmut-stats.json"  # which tests reach which function
KILLED, OUT_OF_TIME = ("killed", "segfault"), "timeout"


def _tested(copy: Path, tests: Sequence[str]) -> None:
    """Run tests of a copy, in a process of its own that ends with pytest's exit status."""
    import pytest

    os.chdir(copy)
    sys.path.insert(0, str(copy))
    os.environ["PYTHONPATH"] = str(copy)
    with open(copy / "log.txt", "w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        sys.exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *(f"tests/{name}" for name in tests)]))


def named_mistakes() -> Iterator[dict]:
    """Yield a row per mistake of mutations.yaml: what it is, its file, its tests, and whether they failed."""
    import peft  # noqa: F401 - imported once, for all forked processes
    import transformers  # noqa: F401

    mistakes, forks = yaml.safe_load(MISTAKES.read_text(encoding="utf-8")), multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name)
        shutil.copytree(HOME / "mtive_nb", copy / "mtive_nb", ignore=shutil.ignore_patterns("__pycache__"))
        for folder in COPIED:
            (copy / folder).symlink_to(HOME / folder)

        def status(tests: Sequence[str]) -> int:
            process = forks.Process(target=_tested, args=(copy, tests))
            process.start()
            process.join()
            return process.exitcode

        tests = list(dict.fromkeys(mistake["tests"] for mistake in mistakes))
        if status(tests):
            raise RuntimeError(f"the tests fail without any mistake:\n{(copy / 'log.txt').read_text()[-2000:]}")
        for mistake in mistakes:
            file = copy / "mtive_nb" / mistake["file"]
            right = file.read_text(encoding="utf-8")
            file.write_text(right.replace(mistake["old"], mistake["new"]), encoding="utf-8")
            outcome = {0: "survived", 1: "killed"}.get(status([mistake["tests"]]), "error")
            file.write_text(right, encoding="utf-8")
            yield {"mistake": mistake["what"], "file": mistake["file"], "tests": mistake["tests"], "outcome": outcome}


def prepare(module: str) -> Path:
    """Return the folder in which mutmut works on a module, with its configuration."""
    files = [HOME / "mtive_nb" / f"{module}.py", *(HOME / "tests" / f"test_{name}.py" for name in TESTS[module])]
    content = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:8]
    folder = HOME / "outputs" / "mutation" / f"{module.replace('/', '.')}-{content}"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("mtive_nb", *COPIED):
        if not (folder / name).exists():
            (folder / name).symlink_to(HOME / name)
    settings = {
        "source_paths": ["mtive_nb"], "only_mutate": [f"mtive_nb/{module}.py"], "also_copy": list(COPIED),
        "pytest_add_cli_args_test_selection": [f"tests/test_{name}.py" for name in TESTS[module]],
        "pytest_add_cli_args": ["-p", "no:cacheprovider"],
    }  # fmt: skip
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    (folder / "pyproject.toml").write_text("[tool.mutmut]\nuse_git_change_detection = false\n" + "\n".join(lines))
    return folder


def mutants_of(folder: Path, module: str) -> list[str]:
    """Return the names of a module's mutants, in the order of its source."""
    from mutmut.configuration import reset_config
    from mutmut.mutation.file_mutation import mutate_file_contents
    from mutmut.utils.format_utils import get_mutant_name

    file = Path("mtive_nb") / f"{module}.py"
    with contextlib.chdir(folder):  # where mutmut looks for its configuration
        reset_config()
        found = mutate_file_contents(str(file), file.read_text(encoding="utf-8"))
    return [get_mutant_name(file, name) for name in found.mutant_names]


def outcomes(folder: Path, module: str) -> dict[str, str]:
    """Return mutmut's status of each mutant that it has tried, by name."""
    from mutmut.stats import status_by_exit_code

    meta = folder / "mutants" / "mtive_nb" / f"{module}.py.meta"
    codes = json.loads(meta.read_text(encoding="utf-8"))["exit_code_by_key"] if meta.is_file() else {}
    return {name: status_by_exit_code[code] for name, code in codes.items() if code is not None}


def run_mutmut(folder: Path, mutants: Sequence[str], children: int) -> None:
    """Try these mutants; what mutmut prints, and why it could not, lies in log.txt of the folder."""
    command = [sys.executable, "-m", "mutmut", "run", "--max-children", str(children), *mutants]
    with (folder / "log.txt").open("w") as log:
        subprocess.run(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT, check=False)


def widen(stats: Path) -> None:
    """Let each test of a file count for all functions that the file's tests reach.

    mutmut credits what a shared fixture runs to the test that asked for it first, and would try that test alone.
    """
    found = json.loads(stats.read_text(encoding="utf-8"))
    for function, tests in found["tests_by_mangled_function_name"].items():
        files = {test.split("::")[0] for test in tests}
        wide = [test for test in found["duration_by_test"] if test.split("::")[0] in files]
        found["tests_by_mangled_function_name"][function] = wide
    stats.write_text(json.dumps(found), encoding="utf-8")


def of_module(module: str, *, sample: int | None, seed: int, again: bool, children: int) -> dict:
    """Try a module's mutants, or a sample of them; returns how many were killed, and the names of the others."""
    folder = prepare(module)
    names = mutants_of(folder, module)
    chosen = names if sample is None else random.Random(seed).sample(names, min(sample, len(names)))
    before = outcomes(folder, module)
    left = [name for name in chosen if name not in before or (again and before[name] not in KILLED)]
    if again:  # tests have changed: which of them reach a function is found anew
        (folder / STATS).unlink(missing_ok=True)
    if left and not (folder / STATS).is_file():
        run_mutmut(folder, left[:1], children)
    if left and (folder / STATS).is_file():
        widen(folder / STATS)
        run_mutmut(folder, left, children)
    found = outcomes(folder, module)
    counts = Counter(found.get(name, "not tried") for name in chosen)
    killed = sum(counts[status] for status in KILLED)
    tried = sum(counts.values()) - counts["not tried"] - counts[OUT_OF_TIME]
    row = {"module": module, "mutants": len(names), "tried": tried, "killed": killed, OUT_OF_TIME: counts[OUT_OF_TIME]}
    row["score"] = round(killed / tried, 3) if tried else None
    over = (*KILLED, OUT_OF_TIME)
    return row | {"survived": {name: found[name] for name in chosen if found.get(name, "killed") not in over}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="*", choices=["named", *TESTS, []], metavar="MODULE")
    parser.add_argument("--sample", type=int, help="mutants drawn of each module; default: all")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--again", action="store_true", help="repeat mutants that survived")
    parser.add_argument("--children", type=int, default=1, help="mutants tried at once")
    given = vars(parser.parse_args())
    modules = given.pop("modules") or ["named", *TESTS]
    for module in modules:
        for row in named_mistakes() if module == "named" else [of_module(module, **given)]:
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
