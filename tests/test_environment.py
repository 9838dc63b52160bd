"""environment.yml, constraints.txt and pyproject.toml describe one environment."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HOME = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((HOME / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def pins() -> dict[str, str]:
    lines = [line for line in (HOME / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    found = [re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.]+)", line) for line in lines]
    assert all(found), [line for line, match in zip(lines, found, strict=True) if not match]
    names = [canonicalize_name(match[1]) for match in found]
    assert len(names) == len(set(names))
    return dict(zip(names, (match[2] for match in found), strict=True))


def required(project: dict) -> list[Requirement]:
    """The core's requirements and those of every extra in `all`."""
    extras = project["optional-dependencies"]
    names = re.fullmatch(r"mtive-nb\[(.*)\]", extras["all"][0])[1].split(",")
    return [Requirement(r) for r in project["dependencies"] + [r for name in names for r in extras[name]]]


def test_every_requirement_is_pinned_within_its_bounds(project: dict, pins: dict[str, str]) -> None:
    for requirement in required(project):
        name = canonicalize_name(requirement.name)
        assert name in pins, f"constraints.txt has no pin for {name}"
        assert requirement.specifier.contains(pins[name]), f"{requirement} does not admit {name}=={pins[name]}"


def test_torch_is_pinned_without_a_build(pins: dict[str, str]) -> None:
    assert (pins["torch"], pins["torchvision"]) == ("2.13.0", "0.28.0")


def test_all_holds_every_extra_that_users_and_tests_need(project: dict) -> None:
    extras = project["optional-dependencies"]
    names = set(re.fullmatch(r"mtive-nb\[(.*)\]", extras["all"][0])[1].split(","))
    assert names == set(extras) - {"all", "serve", "mutation"}


def test_conda_installs_the_same(project: dict) -> None:
    environment = yaml.safe_load((HOME / "environment.yml").read_text())
    assert environment["name"] == project["name"]
    assert "conda-forge" in environment["channels"]
    plain = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    assert plain == ["python=3.11", "pip"]
    assert environment["dependencies"][-1] == {"pip": ["-c constraints.txt", "-e .[all]"]}


def test_binder_installs_the_pins_with_what_the_demo_needs(project: dict) -> None:
    lines = (HOME / ".binder/requirements.txt").read_text().splitlines()
    options = dict(line.split(" ", 1) for line in lines if not line.startswith("#"))
    pins = HOME / ".binder" / options["-c"]  # pip looks for it from the file's folder, for the project from its own
    assert pins.resolve() == HOME / "constraints.txt"
    assert options["-e"] == ".[lab]" and options["--extra-index-url"].endswith("/cpu")
    assert {Requirement(r).name for r in project["optional-dependencies"]["lab"]} >= {"jupyterlab", "voila"}
    assert (HOME / ".binder/runtime.txt").read_text().strip() == "python-3.11"


def test_make_installs_under_the_constraints() -> None:
    makefile = (HOME / "Makefile").read_text()
    install = next(line for line in makefile.splitlines() if "pip install" in line)
    assert "-c constraints.txt" in install
    assert "-e '.[" in install
    for verb in ("reproduce", "reproduce-all", "test", "lab", "report", "serve", "test-serve", "clean"):
        assert re.search(rf"^{verb}:", makefile, re.MULTILINE), verb


def test_a_message_about_a_missing_package_names_an_extra_of_this_checkout(project: dict) -> None:
    texts = [path.read_text(encoding="utf-8") for path in (HOME / "mtive_nb").rglob("*.py")]
    hints = [hint for text in texts for hint in re.findall(r"pip install ([^\n)]*)", text)]
    named = [re.match(r"-e '?\.(?:\[(\w+|\{extra\})\]')?", hint) for hint in hints]
    assert all(named), "the project is not on PyPI"
    assert {found[1] for found in named} - {None, "{extra}"} <= project["optional-dependencies"].keys()
    assert len(hints) >= 5


def test_version_stands_once_and_packaged_data_exist(project: dict) -> None:
    import mtive_nb

    assert mtive_nb.__version__ == project["version"]
    for name in ("run/published.csv", "run/tables.yaml", "report/page.html.jinja"):
        assert (HOME / "mtive_nb" / name).is_file()
