"""The versions of a profile's experts: kept, listed, put in force, rolled back.

Version 1 of a task is what chapter 06 trained. Each later version has a folder of its own, a stack with one adapter, in
`outputs/PROFILE/versions/TASK/NUMBER/`. `versions.json` beside them names the version in force. Versions belong to the
expert of chapter 06 that they followed: where that is trained anew, or the stages below it, it is in force again.
"""

import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from mtive_nb.model.experts import STAGES, expert_name
from mtive_nb.model.lineage import line_of, read_manifest
from mtive_nb.run.atomic import write_atomic
from mtive_nb.run.graph import find_run
from mtive_nb.serve.pinned import check_pin, pin
from mtive_nb.serve.pool import ExpertPool


def run_folder(profile_dir: Path, number: str) -> Path:
    """Return a chapter's run folder. Errors: FileNotFoundError with the command that makes it."""
    found = find_run(profile_dir, number)
    if found is None:
        raise FileNotFoundError(
            f"outputs/{profile_dir.name}/{number}_*: not found; train the experts first: "
            f"mtive-nb run {profile_dir.name} {max(number, '06')}"
        )
    return found


@dataclass(frozen=True)
class ExpertVersion:
    """One version: its number, stack folder, the adapter's name in it, and what is known of it."""

    number: int
    folder: Path
    adapter: str
    made: str = ""  # UTC, ISO 8601
    about: dict = field(default_factory=dict)  # over (version), records, corrections, gain, calibration


class Versions:
    """The versions of one profile. Errors: FileNotFoundError where chapters 05 or 06 have not run, LineageError."""

    def __init__(self, profile_dir: Path) -> None:
        self.profile_dir, self.folder = profile_dir, profile_dir / "versions"
        self.file = self.folder / "versions.json"
        stage_2, trained = run_folder(profile_dir, "05"), run_folder(profile_dir, "06")
        self.experts = trained / "stack"
        self._trunk = line_of(stage_2 / "stack", "IT", check=False).sha256
        self.tasks = list(json.loads((trained / "settings.json").read_text(encoding="utf-8")))
        self._followed: dict[str, int] = {}  # task -> version in force when a pool last followed
        self._state = self._changed_at()

    def of(self, task: str) -> list[ExpertVersion]:
        """Return a task's versions, oldest first. Errors: KeyError for a task without an expert."""
        if task not in self.tasks:
            raise KeyError(f"task {task!r}: found no expert, expected one of {', '.join(self.tasks)}")
        rows = self._entry(task).get("versions", [])
        later = [ExpertVersion(folder=self.folder / task / str(row["number"]), **row) for row in rows]
        return [ExpertVersion(1, self.experts, expert_name(task)), *later]

    def in_force(self, task: str) -> ExpertVersion:
        """Return the version that answers a task's questions."""
        number = self._entry(task).get("in force", 1)
        return next(version for version in self.of(task) if version.number == number)

    def next_folder(self, task: str) -> Path:
        """Return a folder for a task's next version; a number is never used twice."""
        taken = [int(path.name) for path in (self.folder / task).glob("*") if path.name.isdigit()]
        return self.folder / task / str(1 + max([1, *taken]))

    def add(self, task: str, folder: Path, adapter: str, *, about: dict) -> ExpertVersion:
        """List the version that was saved to a folder of `next_folder`; it is not in force yet."""
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

    def calibration(self) -> dict:
        """Return the temperatures of the versions in force that were retrained, in the form of chapter 07's."""
        found = {task: self.in_force(task).about.get("calibration") for task in self.tasks}
        return {task: fitted for task, fitted in found.items() if fitted}

    def serve(self, pool: ExpertPool, task: str) -> None:
        """Put the version in force into a pool that does not serve the task yet. Errors: LineageError, as of the pool."""
        version = self.in_force(task)
        check_pin(self.profile_dir, expert_name(task), line_of(version.folder, version.adapter).sha256)
        pool.add(task, version.folder, version.adapter, number=version.number)
        self._followed[task] = version.number

    def follow(self, pool: ExpertPool) -> bool:
        """Bring a pool to the versions that came in force since the last call; return whether there were any."""
        state = self._changed_at()
        if state == self._state:
            return False
        changed = False
        for task in self._followed.keys() & pool.experts.keys():
            version = self.in_force(task)
            if version.number != self._followed[task]:
                check_pin(self.profile_dir, expert_name(task), line_of(version.folder, version.adapter).sha256)
                pool.update(task, version.folder, version.adapter, number=version.number)
                self._followed[task], changed = version.number, True
        self._state = state
        return changed

    def pin(self) -> Path:
        """Pin stages 1 and 2, the versions in force and the adapters of chapters 15 and 17, where these have run.

        Nothing else is then served; returns the file of pins.
        """
        stages = {name: run_folder(self.profile_dir, number) / "stack" for name, number in STAGES.items()}
        hashes = {name: line_of(stack, name).sha256 for name, stack in stages.items()}
        for task in self.tasks:
            version = self.in_force(task)
            hashes[expert_name(task)] = line_of(version.folder, version.adapter).sha256
        others = (find_run(self.profile_dir, number) for number in ("15", "17"))
        for stack in (run / "stack" for run in others if run):
            if stack.is_dir():  # a chapter that was left out has none
                hashes |= {name: line_of(stack, name).sha256 for name in read_manifest(stack)["adapters"]}
        return pin(self.profile_dir, hashes)

    def _changed_at(self) -> int:
        return self.file.stat().st_mtime_ns if self.file.is_file() else 0

    def _read(self) -> dict:
        return json.loads(self.file.read_text(encoding="utf-8")) if self.file.is_file() else {}

    def _entry(self, task: str) -> dict:
        entry = self._read().get(task, {})
        return entry if entry.get("after") == self._first(task) else {}

    def _first(self, task: str) -> list[str]:
        """Hashes of the trunk and of chapter 06's expert, to which later versions belong."""
        return [self._trunk, line_of(self.experts, expert_name(task), check=False).sha256]

    def _change(self, task: str, number: int, later: list[ExpertVersion]) -> None:
        rows = [{k: v for k, v in asdict(version).items() if k != "folder"} for version in later]
        entry = {"after": self._first(task), "in force": number, "versions": rows}
        write_atomic(self.file, json.dumps(self._read() | {task: entry}, indent=1, ensure_ascii=False))
