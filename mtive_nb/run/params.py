"""Check parameter files against the notebook's `parameters` cell before any kernel starts.

papermill only warns about an unknown name and reads `1e-4` as a string; its inspector is a regex. This module reads the
tagged cell with `ast`. A parameter file may set only names that the cell declares.
"""

import ast
import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

# The runner sets this parameter from the profile's name; a parameter file must not set it.
INJECTED = "PROFILE"
# File of parameters for every chapter that declares the name, such as a seed; a chapter's own file overrides it.
EVERY = "every"
REST = "*"  # key of a per-task mapping: all tasks that the mapping does not name
SCALARS = {"int": int, "float": float, "str": str, "bool": bool}


class ParameterError(ValueError):
    """A parameter file or a parameters cell is invalid, so that no run can start."""


@dataclass(frozen=True)
class Parameter:
    """One annotated literal of a notebook's parameters cell; `annotation` is its source text, e.g. "list[int]"."""

    name: str
    annotation: str
    default: Any


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-4 is a float, only true and false are booleans, and a duplicate key is an error."""


# YAML 1.1 would also read 12:30 as a number, 010 as octal and 2021-11-01 as a date.
_REPLACED = {f"tag:yaml.org,2002:{kind}" for kind in ("bool", "int", "float", "timestamp")}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in pairs if tag not in _REPLACED]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_NUMBER = list("-+.0123456789")
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|false|False)$"), list("tTfF"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9][\d_]*)$"), _NUMBER)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:(?:\d[\d_]*\.\d*|\.\d+)(?:[eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+|\.(?:inf|nan))$"),
    _NUMBER,
)


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[str, Any]:
    seen: set[str] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node)
        if isinstance(key, list | dict):
            raise yaml.constructor.ConstructorError(None, None, "found a list or braces as a key", key_node.start_mark)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"duplicate key {key}", key_node.start_mark)
        seen.add(key)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def load_yaml(path: Path) -> dict[str, Any]:
    """Read the mapping in a parameter file; an empty file is an empty mapping.

    Errors: ParameterError with the file, and with the line if the YAML is invalid.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506  (a SafeLoader)
    except FileNotFoundError:
        raise ParameterError(f"{path}: there is no such parameter file") from None
    except OSError as error:
        raise ParameterError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ParameterError(f"{path}: not UTF-8 ({error}); save the file as UTF-8") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ParameterError(f"{path}: not YAML: {error}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ParameterError(f"{path}: found {type(content).__name__}, expected lines of NAME: value")
    return content


def read_parameters(notebook: Path) -> dict[str, Parameter]:
    """Read the parameters that a notebook declares in its cell tagged `parameters`, in order.

    Errors: ParameterError if the cell is missing or contains anything but annotated literals in UPPER_CASE.
    """
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    tagged = [cell for cell in cells if "parameters" in cell.get("metadata", {}).get("tags", [])]
    if len(tagged) != 1:
        raise ParameterError(f"{notebook.name}: found {len(tagged)} cells tagged `parameters`, expected one")
    try:
        tree = ast.parse("".join(tagged[0]["source"]))
    except SyntaxError as error:
        raise ParameterError(f"{notebook.name}: parameters cell, line {error.lineno}: {error.msg}") from None
    declared: dict[str, Parameter] = {}
    for statement in tree.body:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue  # a docstring
        parameter = _declaration(statement, where=notebook.name)
        declared[parameter.name] = parameter
    return declared


def _declaration(statement: ast.stmt, *, where: str) -> Parameter:
    """Read one line `NAME: type = literal` of a parameters cell."""
    line = f"{where}: parameters cell, line {statement.lineno}: `{ast.unparse(statement)}`"
    if (
        not isinstance(statement, ast.AnnAssign)
        or not isinstance(statement.target, ast.Name)
        or statement.value is None
    ):
        raise ParameterError(f"{line}: expected an annotated literal such as `STEPS: int = 200`")
    name, annotation = statement.target.id, ast.unparse(statement.annotation)
    if not name.isupper():
        raise ParameterError(f"{line}: parameters are written in UPPER_CASE, `{name.upper()}`")
    try:
        default = ast.literal_eval(statement.value)
    except ValueError:
        raise ParameterError(
            f"{line}: expected a literal; papermill injects values below this cell, so a value "
            "computed here would keep its old operands: compute it in a later cell"
        ) from None
    try:
        default = check_type(default, annotation)
    except TypeError as error:
        raise ParameterError(f"{line}: {error}") from None
    return Parameter(name, annotation, default)


def check_type(value: Any, annotation: str) -> Any:
    """Return `value` as the type `annotation` (an int becomes a float if a float is declared).

    Annotations: int, float, str, bool, list[...], dict[str, ...] and their nesting. Errors: TypeError.
    """
    return _checked(value, ast.parse(annotation, mode="eval").body)


def _checked(value: Any, node: ast.expr) -> Any:
    wanted = ast.unparse(node)
    if isinstance(node, ast.Name) and node.id in SCALARS:
        if node.id == "float" and type(value) is int:
            return float(value)
        # type(), because isinstance(True, int) is true.
        if type(value) is SCALARS[node.id]:
            return value
    elif isinstance(node, ast.Name) and node.id in ("list", "dict"):
        if type(value).__name__ == node.id:
            return value
    elif isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "list":
        if isinstance(value, list):
            return [_checked(item, node.slice) for item in value]
    elif isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "dict":
        key, item = node.slice.elts if isinstance(node.slice, ast.Tuple) else (None, node.slice)
        if isinstance(value, dict) and key is not None:
            return {_checked(k, key): _checked(v, item) for k, v in value.items()}
    else:
        raise TypeError(f"found the type {wanted}, expected one of int, float, str, bool, list[...], dict[..., ...]")
    raise TypeError(f"found {type(value).__name__} {value!r}, expected {wanted}")


def similar(name: str, known: list[str]) -> str:
    """Return the end of an error message's clause: "; did you mean ...?", or an empty text without a similar name."""
    # Ignore case: a parameter in lower case is the most common mistake.
    upper = {k.upper(): k for k in known}
    match = difflib.get_close_matches(name.upper(), list(upper), n=1, cutoff=0.6)
    return f"; did you mean {upper[match[0]]}?" if match else ""


def close_to(name: str, known: list[str]) -> str:
    """Return `similar`, or a full stop without a similar name, as the end of a sentence."""
    return similar(name, known) or "."


def effective_parameters(notebook: Path, *, params: Path, profile: str) -> dict[str, Any]:
    """Return a notebook's parameters in a profile: its defaults, then `every.yaml`, its own file, and PROFILE.

    Each source overrides the sources before it. A mapping changes only the keys that it names, and null removes a key;
    one with "*" replaces the whole mapping, since it says what all keys are that it does not name.
    `params` is the folder of profiles. A missing file changes nothing.
    Errors: ParameterError for an unknown profile, an unknown name, a wrong type, a task without a setting, a broken
    file or cell.
    """
    folder = profile_folder(params, profile=profile)
    declared = read_parameters(notebook)
    values = {name: parameter.default for name, parameter in declared.items()}
    for path in files_of(folder, notebook.stem):
        shown = f"{params.name}/{profile}/{path.name}"
        for name, value in load_yaml(path).items():
            if name == INJECTED:
                raise ParameterError(f"{shown}: {INJECTED} comes from the profile's name; remove the line")
            if name not in declared and path.stem == EVERY:
                continue  # a parameter of another notebook, as check_profile verifies
            if name not in declared:
                raise ParameterError(
                    f"{shown}: {name} is no parameter of {notebook.name}{close_to(str(name), list(declared))} "
                    f"It declares: {', '.join(declared)}"
                )
            if isinstance(value, dict) and isinstance(values[name], dict):
                before = {} if value.get(REST) is not None else values[name]
                value = {key: one for key, one in (before | value).items() if one is not None}
            try:
                values[name] = check_type(value, declared[name].annotation)
            except TypeError as error:
                raise ParameterError(f"{shown}: {name}: {error}, as {notebook.name} declares") from None
    if INJECTED in declared:
        values[INJECTED] = check_type(profile, declared[INJECTED].annotation)
    for name, table in values.items():
        if isinstance(table, dict) and REST in declared[name].default:
            for task in values.get("TASKS", ()):
                if task not in table and REST not in table:
                    raise ParameterError(
                        f"{params.name}/{profile}: {name} of {notebook.name} has no entry for the task {task}; "
                        f'add {task}, or "{REST}" for all tasks that it does not name'
                    )
    return values


def per_task(table: Mapping[str, Any], tasks: Iterable[str]) -> dict[str, Any]:
    """Return the setting of each task or adapter: its own entry, else "*". Errors: ParameterError without either."""
    tasks = list(tasks)
    if REST not in table and (missing := [task for task in tasks if task not in table]):
        raise ParameterError(
            f'found entries for {", ".join(table)}; add {", ".join(missing)}, or "{REST}" for all others'
        )
    return {task: table[task] if task in table else table[REST] for task in tasks}


def choose(name: str, value: str, choices: Mapping[str, Any]) -> Any:
    """Return the entry of `choices` under a parameter's value. Errors: ValueError with parameter, value and choices."""
    if value not in choices:
        raise ValueError(f"{name}: found {value!r}, expected {' or '.join(choices)}")
    return choices[value]


def files_of(folder: Path, stem: str) -> list[Path]:
    """Return a profile's existing parameter files for a notebook; a later file overrides an earlier file."""
    return [path for path in (folder / f"{EVERY}.yaml", folder / f"{stem}.yaml") if path.exists()]


def profile_folder(params: Path, *, profile: str) -> Path:
    """Return the folder of a profile's parameter files. Errors: ParameterError with the existing profiles."""
    known = sorted(p.name for p in params.iterdir() if p.is_dir()) if params.is_dir() else []
    if profile not in known:
        raise ParameterError(
            f"profile {profile!r}: there is no folder {params.name}/{profile}{close_to(profile, known)} "
            f"Profiles: {', '.join(known) or 'none'}"
        )
    return params / profile


def check_profile(params: Path, *, profile: str, notebooks: Sequence[Path]) -> None:
    """Refuse settings that no notebook would read. Errors: ParameterError.

    These are a parameter file without a notebook, and a name in every.yaml that no notebook declares.
    """
    folder, stems = profile_folder(params, profile=profile), [notebook.stem for notebook in notebooks]
    for path in sorted(folder.glob("*.yaml")):
        if path.stem not in (EVERY, *stems):
            raise ParameterError(
                f"{params.name}/{profile}/{path.name}: there is no notebook {path.stem}.ipynb"
                f"{close_to(path.stem, stems)}"
            )
    if (every := folder / f"{EVERY}.yaml").exists():
        declared = {name for notebook in notebooks for name in read_parameters(notebook)}
        for name in load_yaml(every):
            if name not in declared:
                raise ParameterError(
                    f"{params.name}/{profile}/{every.name}: {name} is no parameter of any notebook"
                    f"{close_to(str(name), sorted(declared))}"
                )


def header_minutes(params: Path, *, profile: str, stem: str) -> float | None:
    """Return the estimate in a parameter file's header comment `# minutes: 4`, or None without that comment."""
    path = params / profile / f"{stem}.yaml"
    if not path.exists():
        return None
    found = re.search(r"^#\s*minutes:\s*([\d.]+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    return float(found.group(1)) if found else None
