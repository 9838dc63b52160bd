"""Run stale notebooks in the order of the graph: one papermill process per notebook, up to `jobs` at once."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from mtive_nb.run.graph import Project, find_project, read_graph, selected, without_groups
from mtive_nb.run.job import NotebookJob, cell_states, restore_old
from mtive_nb.run.lock import profile_lock
from mtive_nb.run.params import ParameterError, profile_folder
from mtive_nb.run.plan import Inputs, Step, describe, make_plan
from mtive_nb.run.progress import duration
from mtive_nb.run.stale import reasons

POLL_S, QUIET_S = 0.3, 30.0
# Minimum time between two progress lines of one notebook.
BETWEEN_S = 2.0


@dataclass
class Outcome:
    """The outcome of one runner call, by notebook name."""

    ran: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return not self.failed


def say(text: str) -> None:
    """Print one line to the terminal and flush it."""
    print(text, flush=True)


def run_notebooks(
    profile: str,
    *,
    numbers: Iterable[str] = (),
    jobs: int = 1,
    dry_run: bool = False,
    force: bool = False,
    only: bool = False,
    project: Project | None = None,
    tell: Callable[[str], None] = say,
) -> Outcome:
    """Run the stale notebooks among the named notebooks and their dependencies; `only` leaves out the dependencies.

    `jobs`: number of notebooks that run at once and share the cores. `dry_run` only shows the plan. A failure stops
    only the notebooks that depend on it. Errors, before any kernel starts: ParameterError, GraphError, LockedError.
    """
    if jobs < 1:
        raise ParameterError(f"--jobs {jobs}: expected 1 or more")
    project = project or find_project()
    numbers = list(numbers)
    if dry_run:
        steps, _ = make_plan(project, profile, numbers=numbers, force=force, only=only)
        tell(describe(steps))
        return Outcome(skipped=[step.notebook.name for step in steps])
    # Before the lock, which writes: a profile or notebook that does not exist leaves nothing behind.
    profile_folder(project.params, profile=profile)
    selected(read_graph(project.notebooks), numbers, only=only)
    with signals_as_exceptions(), profile_lock(project.outputs / profile) as lock_fd:
        for path in sorted(project.notebooks.glob("[0-9][0-9]_*.ipynb")):
            restore_old(project.outputs / profile, path.stem)
        steps, inputs = make_plan(project, profile, numbers=numbers, force=force, only=only)
        tell(describe(steps))
        _tell_of_upstream(steps, numbers, tell=tell)
        command = " ".join(["python -m mtive_nb run", profile, *numbers, *(["--only"] if only else [])])
        runner = _Runner(inputs, steps, jobs=jobs, command=command, lock_fd=lock_fd, tell=tell)
        return runner.run()


def _tell_of_upstream(steps: list[Step], numbers: list[str], *, tell: Callable[[str], None]) -> None:
    asked = set(without_groups(numbers))
    named = [s for s in steps if {s.notebook.number, s.notebook.name} & asked]
    extra = [s.notebook.number for s in steps if s.stale and s not in named]
    if numbers and extra:
        tell(f"{', '.join(numbers)}: runs {', '.join(extra)} first, because it reads their out-of-date results")


@contextmanager
def signals_as_exceptions() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into SystemExit, so that `finally` ends the child processes, as after Ctrl-C."""

    def leave(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    try:
        before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    except ValueError:  # outside the main thread, the caller handles signals
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Runner:
    """The loop that runs the steps of one plan."""

    def __init__(
        self, inputs: Inputs, steps: list[Step], *, jobs: int, command: str, lock_fd: int, tell: Callable[[str], None]
    ) -> None:
        self.inputs, self.jobs, self.command, self.lock_fd, self.tell = inputs, jobs, command, lock_fd, tell
        self.waiting = {step.notebook.number: step for step in steps}
        self.running: dict[str, tuple[NotebookJob, Step]] = {}
        self.outcome = Outcome()
        self.shown: dict[str, tuple[str, float]] = {}
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        # More threads than free cores slow every process down many times over.
        limit = os.environ.get("OMP_NUM_THREADS", "")
        self.threads = max(1, (min(cores, int(limit)) if limit.isdigit() else cores) // jobs)

    def run(self) -> Outcome:
        """Run until no step waits or runs; on any exit, end all child processes."""
        started = time.monotonic()
        try:
            while self.waiting or self.running:
                self._start_ready()
                for number in list(self.running):
                    self._look_at(number)
                if self.running:
                    time.sleep(POLL_S)
        finally:
            for job, _ in self.running.values():
                self.tell(f"[{job.notebook.name}] stopped; the next run resumes from its checkpoints, if any")
                job.stop()
        done = self.outcome
        self.tell(
            f"{len(done.ran)} ran, {len(done.skipped)} up to date, {len(done.failed)} failed, "
            f"{duration(time.monotonic() - started)}"
        )
        return done

    def _start_ready(self) -> None:
        """Start, skip or fail each step whose upstream notebooks have ended."""
        for number, step in list(self.waiting.items()):
            notebook = step.notebook
            if broken := [n for n in notebook.upstream if self.inputs.names[n] in self.outcome.failed]:
                del self.waiting[number]
                self.outcome.failed[notebook.name] = f"not started: it reads {', '.join(broken)}, which failed"
                self.tell(f"[{notebook.name}] {self.outcome.failed[notebook.name]}")
            elif any(n in self.waiting or n in self.running for n in notebook.upstream):
                continue
            elif step.stale and len(self.running) >= self.jobs:
                continue  # staleness is looked at again when there is room, not at every poll
            elif not self._still_stale(step):
                del self.waiting[number]
                self.outcome.skipped.append(notebook.name)
                if step.stale:
                    self.tell(f"[{notebook.name}] skipped: the results that it reads did not change")
            else:
                del self.waiting[number]
                self._start(number, step)

    def _still_stale(self, step: Step) -> bool:
        """Check staleness again just before the start, because new upstream results may equal the old results."""
        if not step.stale or all("--force" in why for why in step.why):
            return step.stale
        now = self.inputs.fingerprint(step.notebook, step.parameters)
        return bool(reasons(self.inputs.profile_dir / step.notebook.name, now=now))

    def _start(self, number: str, step: Step) -> None:
        job = NotebookJob(
            notebook=step.notebook,
            profile_dir=self.inputs.profile_dir,
            home=self.inputs.project.home,
            parameters=step.parameters,
            fingerprint=self.inputs.fingerprint(step.notebook, step.parameters),
            command=self.command,
            threads=self.threads,
            lock_fd=self.lock_fd,
        )
        job.start()
        self.running[number] = (job, step)
        about = f", about {duration(step.estimate_s)}" if step.estimate_s is not None else ""
        self.tell(f"[{job.notebook.name}] starts{about} ({', '.join(step.why)})")

    def _look_at(self, number: str) -> None:
        job, step = self.running[number]
        if job.process.poll() is None:
            self._show(job, step)
            return
        del self.running[number]
        problem = job.finish()
        if problem is None:
            self.outcome.ran.append(job.notebook.name)
            ended = f"left out: {job.left_out}" if job.left_out else "done"
            self.tell(f"[{job.notebook.name}] {ended}, {duration(job.elapsed_s)}")
            return
        self.outcome.failed[job.notebook.name] = problem
        for line in job.last_lines(15):
            self.tell(f"    {line}")
        self.tell(f"[{job.notebook.name}] FAILED: {problem}")

    def _show(self, job: NotebookJob, step: Step) -> None:
        """Print a line if the cell changed, or after QUIET_S without a line."""
        name = job.notebook.name
        text, when = self.shown.get(name, ("", job.started))
        if time.monotonic() - when < BETWEEN_S:
            return
        states = cell_states(job.executed)
        done = sum(state == "completed" for state in states)
        cell = f"cell {min(done + 1, len(states))}/{len(states)}" if states else "starting"
        if cell == text and time.monotonic() - when < QUIET_S:
            return
        self.shown[name] = (cell, time.monotonic())
        left = "" if step.estimate_s is None else f", about {duration(max(0.0, step.estimate_s - job.elapsed_s))} left"
        inner = f" | {progress}" if (progress := job.inner_progress()) else ""
        self.tell(f"[{name}] {cell}, {duration(job.elapsed_s)}{left}{inner}")


def main(profile: str, *, numbers: Iterable[str], jobs: int, dry_run: bool, force: bool, only: bool) -> int:
    """Run the command `run` (run_notebooks); return exit code 0 if all requested notebooks are up to date."""
    try:
        outcome = run_notebooks(profile, numbers=numbers, jobs=jobs, dry_run=dry_run, force=force, only=only)
    except KeyboardInterrupt:
        print("stopped by Ctrl-C; run the command again to continue after the last finished notebook", file=sys.stderr)
        return 130
    return 0 if outcome.ok else 1
