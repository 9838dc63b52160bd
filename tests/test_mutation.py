"""The mistakes that `make mutation` makes on purpose can be made: their places and their tests are there."""

from pathlib import Path

import yaml

HOME = Path(__file__).parents[1]


def test_each_mistake_has_its_place_and_its_tests() -> None:
    for mistake in yaml.safe_load((HOME / "benchmarks" / "mutations.yaml").read_text()):
        code = (HOME / "mtive_nb" / mistake["file"]).read_text()
        file, test = mistake["tests"].split("::")
        assert code.count(mistake["old"]) == 1, mistake["what"]
        assert f"def {test}(" in (HOME / "tests" / file).read_text(), mistake["what"]
