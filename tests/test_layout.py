"""The package's rooms, as ARCHITECTURE.md has them: who may import whom, and how full a room may get."""

import ast
import re
from pathlib import Path

import pytest

import mtive_nb

PACKAGE = Path(mtive_nb.__file__).parent
PAGE = (PACKAGE.parent / "ARCHITECTURE.md").read_text()
# The page's table: | `room` | what it holds | may import |
ROOMS = {
    room: set(re.findall(r"`(\w+)`", allowed)) | {room}
    for room, allowed in re.findall(r"^\| `(\w+)` \|[^|\n]*\|([^|\n]*)\|$", PAGE, re.M)
}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE)


def test_the_page_names_every_room() -> None:
    assert ROOMS.keys() == {path.name for path in PACKAGE.iterdir() if list(path.glob("**/*.py"))}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_a_module_imports_what_its_room_may(path: Path) -> None:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level]
    names += [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    rooms = {name.split(".")[1] for name in names if name.startswith("mtive_nb.")}
    assert rooms <= ROOMS[path.relative_to(PACKAGE).parts[0]]


def test_no_room_is_crowded_and_no_module_long() -> None:
    folders = {path.parent for path in MODULES}
    assert {f.name: n for f in folders if (n := len(list(f.glob("*.py")))) > 22} == {}
    assert {p.name: n for p in MODULES if (n := len(p.read_text().splitlines())) > 400} == {}


def test_torch_is_not_needed_to_run_notebooks() -> None:
    for path in (PACKAGE / "run").glob("*.py"):
        assert (
            not re.search(r"^\s*(import|from) (torch|transformers|peft)\b", path.read_text(), re.M)
            or path.name == "folder.py"
        )
