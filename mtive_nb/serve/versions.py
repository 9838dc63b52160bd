"""The versions of a profile's experts: kept, listed, put in force, rolled back.

Version 1 of a task is what chapter 06 trained. Each later version has a folder of its own, a stack with one adapter, in
`outputs/PROFILE/versions/TASK/NUMBER/`. `versions.json` beside them names the version in force. It belongs to one
trunk: after stages 1 or 2 are trained anew, chapter 06's experts are in force again.
"""

import json
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from mtive_nb.model.experts import expert_name
from mtive_nb.model.lineage import read_manifest
from mtive_nb.run.atomic import write_atomic
from mtive_nb.run.graph import find_run
from mtive_nb.serve.pool import ExpertPool


@dataclass(frozen=True)
class ExpertVersion:
    """One version: its number, stack folder, the adapter's name in it, and what is known of it."""

    number: int
    folder: Path
    adapter: str
    made: str = ""  # UTC, ISO 8601
    about: dict = field(default_factory=dict)  # records, corrections, gain over the version before


class Versions:
    """The versions of one profile. Errors: FileNotFoundError where chapters 05 or 06 have not run."""

    def __init__(self, profile_dir: Path) -> None:
        self.folder = Path(profile_dir) / "versions"
        self.file = self.folder / "versions.json"
        stages = {number: find_run(Path(profile_dir), number) for number in ("05", "06")}
        if missing := [number for number, found in stages.items() if found is None]:
            raise FileNotFoundError(
                f"outputs/{Path(profile_dir).name}/{missing[0]}_*: not found; train the experts first: "
                f"mtive-nb run {Path(profile_dir).name} 06"
            )
        self.experts = stages["06"] / "stack"
        self.trunk = read_manifest(stages["05"] / "stack")["adapters"]["IT"]["sha256"]
        self._followed: dict[str, int] = {}  # task -> version in force when a pool last followed
        self._state = self.file.stat().st_mtime_ns if self.file.is_file() else 0
        self.tasks = list(json.loads((stages["06"] / "settings.json").read_text(encoding="utf-8")))

    def of(self, task: str) -> list[ExpertVersion]:
        """Return a task's versions, oldest first. Errors: KeyError for a task without an expert."""
        if task not in self.tasks:
            raise KeyError(f"task {task!r}: found no expert, expected one of {', '.join(self.tasks)}")
        rows = self._read().get(task, {}).get("versions", [])
        later = [ExpertVersion(**row | {"folder": self.folder / task / str(row["number"])}) for row in rows]
        return [ExpertVersion(1, self.experts, expert_name(task)), *later]

    def in_force(self, task: str) -> ExpertVersion:
        """Return the version that answers a task's questions."""
        number = self._read().get(task, {}).get("in force", 1)
        return next(version for version in self.of(task) if version.number == number)

    def next_folder(self, task: str) -> Path:
        """Return the folder of a task's next version."""
        return self.folder / task / str(self.of(task)[-1].number + 1)

    def add(self, task: str, adapter: str, *, about: dict) -> ExpertVersion:
        """List the version that was saved to `next_folder`; it is not in force yet."""
        folder = self.next_folder(task)
        made = datetime.now(UTC).isoformat(timespec="seconds")
        version = ExpertVersion(int(folder.name), folder, adapter, made, about)
        self._change(task, self.in_force(task).number, [*self.of(task)[1:], version])
        return version

    def put_in_force(self, task: str, number: int) -> ExpertVersion:
        """Let a version answer from now on; processes that serve the profile follow. Errors: KeyError for no version."""
        found = {version.number: version for version in self.of(task)}
        if number not in found:
            raise KeyError(f"task {task!r}: found no version {number}, expected one of {', '.join(map(str, found))}")
        self._change(task, number, self.of(task)[1:])
        return found[number]

    def serve(self, pool: ExpertPool, task: str) -> None:
        """Put the version in force into a pool that does not serve the task yet."""
        version = self.in_force(task)
        pool.add(task, version.folder, version.adapter, number=version.number)
        self._followed[task] = version.number

    def follow(self, pool: ExpertPool) -> None:
        """Bring a pool to the versions that came in force since the last call, without an interruption."""
        state = self.file.stat().st_mtime_ns if self.file.is_file() else 0
        if state == self._state:
            return
        self._state = state
        for task in self._followed.keys() & pool.experts.keys():
            version = self.in_force(task)
            if version.number != self._followed[task]:
                pool.update(task, version.folder, version.adapter, number=version.number)
                self._followed[task] = version.number

    def _read(self) -> dict:
        if not self.file.is_file():
            return {}
        kept = json.loads(self.file.read_text(encoding="utf-8"))
        return kept["tasks"] if kept["trunk"] == self.trunk else {}

    def _change(self, task: str, number: int, later: list[ExpertVersion]) -> None:
        rows = [{k: v for k, v in asdict(replace(version)).items() if k != "folder"} for version in later]
        tasks = self._read() | {task: {"in force": number, "versions": rows}}
        write_atomic(self.file, json.dumps({"trunk": self.trunk, "tasks": tasks}, indent=1, ensure_ascii=False))
