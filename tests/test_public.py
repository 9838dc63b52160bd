"""The public face: light to import, whole, and the README's six lines do what they say."""

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import mtive_nb as m
from mtive_nb.__main__ import main
from mtive_nb.data.records import write_records
from mtive_nb.run.content import public_names
from mtive_nb.run.graph import Project
from mtive_nb.serve.answer import Answer, open_profile, question_record

ROOT = Path(__file__).parents[1]
SPEC = m.AdapterSpec(2, 2.0, ("language",))


def test_importing_loads_no_torch() -> None:
    code = "import sys, mtive_nb; dir(mtive_nb); sys.exit('torch' in sys.modules or 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_every_public_name_is_there_with_its_signature() -> None:
    assert set(m.__all__) == public_names().keys() == set(dir(m))
    for name in m.__all__:
        found = getattr(m, name)
        assert found.__doc__ and found.__module__ in (public_names()[name], "mtive_nb.run.folder")
        kinds = [p.kind for p in inspect.signature(found).parameters.values()] if not isinstance(found, type) else []
        assert inspect.Parameter.VAR_KEYWORD not in kinds, f"{name} hides its parameters behind **"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="load_vlms"):
        m.load_vlms  # noqa: B018


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A project whose profile `pocket` has the stack that chapters 04 to 06 leave, untrained but for chance."""
    home = tmp_path_factory.mktemp("home")
    (home / "notebooks").mkdir()
    folders = {n: home / "outputs" / "pocket" / f"{n}_chapter" / "stack" for n in ("04", "05", "06")}
    stack = m.LoraStack(m.load_vlm("pocket", max_px=140, device="cpu"))
    for name, parent, number in (("PT", None, "04"), ("IT", "PT", "05"), ("DD", "IT", "06"), ("PM", "IT", "06")):
        stack.add(name, SPEC, parent=parent)
        for weight in stack.adapter_weights(name).values():
            weight.normal_(0, 0.02)
        stack.save(folders[number], name)
    (folders["06"].parent / "settings.json").write_text(json.dumps(dict.fromkeys(["DD", "PM"], {})))
    for k, colour in enumerate(("red", "blue")):
        Image.new("RGB", (90, 70), colour).save(home / f"photo{k or ''}.jpg")
    return home


def record(k: int, home: Path, answer: str) -> dict:
    return m.make_record(
        f"r{k}", product_id=f"p{k}", task="DD", variant="bin", images=[home / "photo.jpg"], answer=answer, label=answer,
        question="Is this product damaged?", source="mine", split="train",
    )  # fmt: skip


def test_the_six_lines_of_the_readme(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    six = next(
        b for b in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S) if "m.Training" in b
    )
    assert len([line for line in six.splitlines() if line]) == 6
    monkeypatch.chdir(home)
    monkeypatch.setenv("MTIVE_HOME", str(home))
    test = [record(k, home, answer) for k, answer in enumerate(("yes", "no", "yes"))]
    write_records(test, "mine.jsonl")
    stage1, stage2 = (home / "outputs" / "pocket" / f"{n}_chapter" / "stack" for n in ("04", "05"))
    names = {"stage1": stage1, "stage2": stage2, "test": test}
    exec(six.replace("steps=200", "steps=2"), names)
    assert list(names["log"]["step"]) == [1, 2] and set(names["scores"]["system"]) == {"DD"}
    assert re.fullmatch(r"DD@1 [0-9a-f]{8}", names["answer"].expert) and names["answer"].milliseconds > 0


def test_a_profile_answers_as_its_stack_does(home: Path) -> None:
    asked = [
        question_record("DD", [home / "photo1.jpg"]),
        question_record("PM", [home / "photo.jpg", home / "photo1.jpg"]),
    ]
    with open_profile("pocket", project=Project(home)) as profile:
        assert profile.tasks == ["DD", "PM"]
        together = profile.answers(asked, max_new_tokens=6)
        alone = profile.ask("DD", home / "photo1.jpg", max_new_tokens=6)
    folders = [home / "outputs" / "pocket" / f"{n}_chapter" / "stack" for n in ("04", "05", "06")]
    stack = m.open_stack((folders[0], "PT"), (folders[1], "IT"), (folders[2], "DD"), (folders[2], "PM"))
    for one, found in zip(asked, together, strict=True):
        stack.activate(one["task"])
        assert m.generate_answers(stack, [one], max_new_tokens=6) == [found.text]
    assert alone.text == together[0].text and alone.expert == together[0].expert
    assert all(a.probability is None or 0 <= a.probability <= 1 for a in together)


def test_what_cannot_be_asked_is_said_in_one_line(home: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("MTIVE_HOME", str(home))
    (home / "broken.jpg").write_bytes(b"no photo")
    photo = str(home / "photo.jpg")
    for words, message in [
        (["pocket", "DD", str(home / "broken.jpg")], "broken.jpg: not an image"),
        (["pocket", "PM", photo], "photos: found 1, expected 2"),
        (["pocket", "XX", photo], "task 'XX': found no question"),
        (["pocket", "AE", photo], "no expert 'AE' in service; there are ['DD', 'PM']"),
        (["mine", "DD", photo], "outputs/mine/04_*: not found"),
    ]:
        assert main(["ask", *words]) == 2
        said = capsys.readouterr().err
        assert message in said and said.startswith("error: ") and len(said.splitlines()) == 1
    assert main(["ask", "pocket", "DD", photo]) == 0
    assert "[DD@1 " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("probability", "calibrated", "said"),
    [(None, False, "glass  [AE@1 ab, 12 ms]"), (0.25, True, "glass  (yes: 0.25)  [AE@1 ab, 12 ms]"),
     (0.25, False, "glass  (yes: 0.25, not calibrated)  [AE@1 ab, 12 ms]")],
)  # fmt: skip
def test_the_command_prints_an_answer_with_its_probability_or_without(home, monkeypatch, capsys, probability, calibrated, said):  # fmt: skip
    monkeypatch.setenv("MTIVE_HOME", str(home))
    answer = Answer("glass", probability, "yes", calibrated, "AE@1 ab", 12.0)
    monkeypatch.setattr("mtive_nb.serve.answer.Profile.ask", lambda *_, **__: answer)
    assert main(["ask", "pocket", "DD", str(home / "photo.jpg")]) == 0
    assert capsys.readouterr().out == said + "\n"
