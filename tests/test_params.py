"""Parameter files: what stops before a kernel starts, and YAML's traps."""

import json
from pathlib import Path

import nbformat
import pytest

from mtive_nb.run.params import (
    ParameterError,
    check_profile,
    check_type,
    choose,
    effective_parameters,
    header_minutes,
    load_yaml,
    per_task,
    read_parameters,
)

CELL = """PROFILE: str = "pocket"
SEED: int = 0
LEARNING_RATE: float = 2e-3  # a step's size; at most 1
RANKS: list[int] = [8, 4]
SHARES: dict[str, float] = {"AE": 0.5}
SHUFFLE: bool = True
ANSWER: str = "yes"
"""
PROJECT = Path(__file__).parents[1]


def make(
    tmp_path: Path,
    source: str = CELL,
    *,
    yaml: str | None = None,
    tags: tuple[str, ...] = ("parameters",),
    name: str = "04_stage1",
) -> Path:
    """A project with one notebook and its file in the profile `pocket`."""
    cell = nbformat.v4.new_code_cell(source)
    cell.metadata.tags = list(tags)
    book = nbformat.v4.new_notebook(cells=[cell])
    path = tmp_path / "notebooks" / f"{name}.ipynb"
    path.parent.mkdir(exist_ok=True)
    nbformat.write(book, path)
    folder = tmp_path / "params" / "pocket"
    folder.mkdir(parents=True, exist_ok=True)
    if yaml is not None:
        (folder / f"{name}.yaml").write_text(yaml)
    return path


def effective(path: Path, profile: str = "pocket") -> dict:
    return effective_parameters(path, params=path.parents[1] / "params", profile=profile)


def test_defaults_without_a_file(tmp_path: Path) -> None:
    values = effective(make(tmp_path))
    assert values["LEARNING_RATE"] == 0.002
    assert values["SHARES"] == {"AE": 0.5}


def test_file_over_defaults(tmp_path: Path) -> None:
    values = effective(make(tmp_path, yaml="SEED: 3\nRANKS: [16]\n"))
    assert (values["SEED"], values["RANKS"], values["ANSWER"]) == (3, [16], "yes")


def test_what_every_chapter_takes_stands_under_its_own_file(tmp_path: Path) -> None:
    path = make(tmp_path, yaml="RANKS: [2]")
    every = tmp_path / "params" / "pocket" / "every.yaml"
    every.write_text("SEED: 3\nRANKS: [1]\n")
    check_profile(tmp_path / "params", profile="pocket", notebooks=[path])
    found = effective_parameters(path, params=tmp_path / "params", profile="pocket")
    assert found["SEED"] == 3 and found["RANKS"] == [2] and found["SHUFFLE"] is True
    every.write_text("SEEDS: 3\n")
    with pytest.raises(ParameterError, match="every.yaml: SEEDS is no parameter of any notebook; did you mean SEED"):
        check_profile(tmp_path / "params", profile="pocket", notebooks=[path])


def test_a_name_of_every_yaml_goes_to_the_notebooks_that_declare_it(tmp_path: Path) -> None:
    path = make(tmp_path, yaml="SEED: 2\n")
    other = make(tmp_path, 'PROFILE: str = "pocket"\nMODEL: str = "pocket"\n', name="05_stage2")
    (tmp_path / "params" / "pocket" / "every.yaml").write_text("MODEL: big\nSEED: 3\n")
    check_profile(tmp_path / "params", profile="pocket", notebooks=[path, other])
    found = [effective_parameters(p, params=tmp_path / "params", profile="pocket") for p in (path, other)]
    assert found[0]["SEED"] == 2 and "MODEL" not in found[0]
    assert found[1] == {"PROFILE": "pocket", "MODEL": "big"}


def test_profile_is_injected_and_may_not_be_written(tmp_path: Path) -> None:
    path = make(tmp_path)
    (tmp_path / "params" / "smoke").mkdir()
    assert effective(path, "smoke")["PROFILE"] == "smoke"
    with pytest.raises(ParameterError, match="PROFILE comes from the profile's name"):
        effective(make(tmp_path, yaml="PROFILE: paper\n"))


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-4", 0.0001), ("2E3", 2000.0), ("-1.5e-2", -0.015), (".5", 0.5), ("3", 3), ("1_000", 1000), ("true", True)]
    + [(word, word) for word in ("no", "yes", "on", "off", "No", "ON", "12:30", "010", "2021-11-01", "1.2.3", "e5")],
)
def test_yaml_values(tmp_path: Path, text: str, value: object) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(f"X: {text}\n")
    found = load_yaml(path)["X"]
    assert found == value
    assert type(found) is type(value)


def test_yaml_same_key_twice_and_not_a_mapping(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("X: 1\nX: 2\n")
    with pytest.raises(ParameterError, match=r"a\.yaml.*duplicate key X"):
        load_yaml(path)
    path.write_text("- 1\n")
    with pytest.raises(ParameterError, match="found list, expected lines of NAME: value"):
        load_yaml(path)
    path.write_text("X: [1\n")
    with pytest.raises(ParameterError, match="not YAML"):
        load_yaml(path)
    with pytest.raises(ParameterError, match="no such parameter file"):
        load_yaml(tmp_path / "b.yaml")


def test_unknown_name_says_which_was_meant(tmp_path: Path) -> None:
    path = make(tmp_path, yaml="LEARNING_RAET: 1e-4\n")
    with pytest.raises(
        ParameterError, match=r"params/pocket/04_stage1\.yaml: LEARNING_RAET.*did you mean LEARNING_RATE\?"
    ):
        effective(path)
    with pytest.raises(ParameterError, match=r"did you mean SEED\?"):
        effective(make(tmp_path, yaml="seed: 1\n"))


@pytest.mark.parametrize(
    "line",
    ["SEED: 1.5", "SEED: true", "SEED: '1'", "SEED: null", "RANKS: 8", "RANKS: [8, a]", "SHUFFLE: 1", "SHUFFLE: yes"]
    + ["ANSWER: 1", "SHARES: [1]", "SHARES: {AE: half}", "LEARNING_RATE: small"],
)
def test_wrong_type(tmp_path: Path, line: str) -> None:
    name = line.split(":")[0]
    with pytest.raises(ParameterError, match=rf"04_stage1\.yaml: {name}: found .*expected"):
        effective(make(tmp_path, yaml=line + "\n"))


def test_an_int_is_a_float_where_one_is_declared(tmp_path: Path) -> None:
    values = effective(make(tmp_path, yaml="LEARNING_RATE: 1\nSHARES: {AE: 1}\n"))
    assert type(values["LEARNING_RATE"]) is float
    assert type(values["SHARES"]["AE"]) is float


def test_types_nest() -> None:
    assert check_type([{"a": 1}], "list[dict[str, float]]") == [{"a": 1.0}]
    with pytest.raises(TypeError, match="expected one of int, float"):
        check_type(1, "int | None")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("RANK: int = 4\nALPHA: int = RANK * 2\n", "expected a literal"),
        ("RANK = 4\n", "expected an annotated literal"),
        ("rank: int = 4\n", "UPPER_CASE"),
        ("RANK: int = 'four'\n", "found str 'four', expected int"),
        ("RANK: int | None = 4\n", "expected one of int"),
        ("RANK: int = \n", "line 1"),
    ],
)
def test_bad_cell(tmp_path: Path, source: str, message: str) -> None:
    with pytest.raises(ParameterError, match=message) as caught:
        read_parameters(make(tmp_path, source))
    assert "04_stage1.ipynb" in str(caught.value)


def test_no_tagged_cell(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="found 0 cells tagged"):
        read_parameters(make(tmp_path, tags=()))


def test_unknown_profile_and_file_without_a_notebook(tmp_path: Path) -> None:
    path = make(tmp_path, yaml="SEED: 1\n")
    with pytest.raises(ParameterError, match=r"no folder params/poket; did you mean pocket\?"):
        effective(path, "poket")
    (tmp_path / "params" / "pocket" / "04_stage_1.yaml").write_text("")
    with pytest.raises(ParameterError, match=r"no notebook 04_stage_1\.ipynb; did you mean 04_stage1\?"):
        check_profile(tmp_path / "params", profile="pocket", notebooks=[path])


def test_papermill_reads_back_what_the_runner_writes(tmp_path: Path) -> None:
    from papermill.iorw import read_yaml_file

    from mtive_nb.run.job import dump_for_papermill

    values = effective(make(tmp_path, yaml="LEARNING_RATE: 1e-5\nANSWER: no\nSEED: 7\n"))
    path = tmp_path / "values.yaml"
    path.write_text(dump_for_papermill(values))
    assert json.dumps(read_yaml_file(str(path))) == json.dumps(values)


def test_header_minutes(tmp_path: Path) -> None:
    make(tmp_path, yaml="# stage 1\n# minutes: 4.5\nSEED: 1\n")
    assert header_minutes(tmp_path / "params", profile="pocket", stem="04_stage1") == 4.5
    assert header_minutes(tmp_path / "params", profile="pocket", stem="05_stage2") is None


def test_a_value_that_names_no_way_is_refused_with_those_that_there_are():
    assert choose("ENGINE", "ray", {"local": 1, "ray": 2}) == 2
    with pytest.raises(ValueError, match="GENERATOR: found 'gpt', expected sight or text"):
        choose("GENERATOR", "gpt", {"sight": 1, "text": 2})


def test_a_mapping_changes_only_the_keys_that_it_names(tmp_path: Path) -> None:
    cell = 'TASKS: list[str] = ["AE"]\nSTEPS: dict[str, int] = {"AE": 3, "*": 9}\n'
    for text, expected in [
        ("STEPS: {DD: 5}\n", {"AE": 3, "*": 9, "DD": 5}),
        ("STEPS: {AE: null}\nTASKS: [AE, DD]\n", {"*": 9}),
        ("STEPS: {'*': 1}\n", {"*": 1}),
        ("STEPS: {'*': 1, DD: 2}\n", {"*": 1, "DD": 2}),
    ]:
        assert effective(make(tmp_path, cell, yaml=text))["STEPS"] == expected
    assert per_task({"AE": 3, "*": 9}, ["DD", "AE"]) == {"DD": 9, "AE": 3}
    with pytest.raises(ParameterError, match=r'entries for AE, DD; add SL, or "\*"'):
        per_task({"AE": 3, "DD": 2}, ["AE", "SL"])
    with pytest.raises(ParameterError, match="STEPS of .* has no entry for the task DD"):
        effective(make(tmp_path, cell, yaml="STEPS: {'*': null}\nTASKS: [AE, DD]\n"))


@pytest.mark.parametrize(
    ("profile", "chapter"),
    [(profile, "06_experts") for profile in ("paper", "h200", "mine-gpu", "mine-hub")]
    + [("paper", "09_continual"), ("paper", "15_caslie")],
)
def test_no_rate_of_the_pocket_base_reaches_a_hub_model(profile: str, chapter: str) -> None:
    given = effective_parameters(PROJECT / "notebooks" / f"{chapter}.ipynb", params=PROJECT / "params", profile=profile)
    assert set(given["RATE"].values()) == {1e-4}
