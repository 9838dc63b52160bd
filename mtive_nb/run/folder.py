"""A run folder: the files of one notebook run, each written atomically."""

import json
import os
import random
import shutil
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtive_nb.run.atomic import replacing, write_atomic
from mtive_nb.run.frames import show_frames_well
from mtive_nb.run.graph import find_project, find_run
from mtive_nb.run.imported import keep_imported
from mtive_nb.run.metrics import KEY, checked_metric, lines_of
from mtive_nb.run.params import ParameterError
from mtive_nb.run.provenance import device_name, git_state, parameters_in_cells, peak_gpu_mib, peak_mib, versions

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure


LISTED = ("stand_in", "missing")  # notes that collect all their values


class LeftOut(Exception):
    """Ends a chapter that has nothing to work on; the message gives the reason. It is no failure."""

    def _render_traceback_(self) -> list[str]:  # what Jupyter shows
        return [f"Left out: {self}"]


class Run:
    """One notebook run: its folder, metrics and record. `start_run` opens it, `close` ends it."""

    def __init__(self, name: str, *, profile: str, directory: Path, siblings: Path, record: dict[str, Any]) -> None:
        self.name = name
        self.profile = profile
        self.dir = directory
        self.json_path = directory / "run.json"
        self._siblings = siblings
        self._record = record
        self._metrics: dict[tuple, dict[str, Any]] = {}
        self._started = time.monotonic()

    def upstream(self, number: str, *, profile: str | None = None) -> Path:
        """Return the run folder of an earlier notebook, `run.upstream("01")`, in this or another profile.

        The call is also an edge in the graph of notebooks, so the number must be a literal. Errors: FileNotFoundError.
        """
        profile = profile or self.profile
        siblings = self._siblings if profile == self.profile else self._siblings.parent / profile
        found = find_run(siblings, number)
        if found is None:
            raise FileNotFoundError(
                f"{self.name} reads the results of notebook {number}, but outputs/{profile}/{number}_* does not "
                f"exist; make it with: python -m mtive_nb run {profile} {number}"
            )
        return found

    @property
    def checkpoint_dir(self) -> Path:
        """Folder for the checkpoints of a training run: kept if the run is killed, deleted when it finishes."""
        folder = self.dir / "checkpoints"
        folder.mkdir(exist_ok=True)
        return folder

    def metric(
        self,
        value: float,
        *,
        paper: str = "own",
        table: str,
        row: str,
        column: str,
        unit: str,
        n: int,
        better: str = "higher",
        low: float | None = None,
        high: float | None = None,
        seed: int | None = None,
        seeds: int = 1,
    ) -> None:
        """Record one number under the paper's own key (`paper="own"`: no paper prints the number).

        `low`, `high`: the interval. `n`: number of items behind the value. `seed`: default, the run's own. `seeds`:
        number of runs behind the value. A number with the same key and seed replaces the earlier number.
        Errors: ValueError for a key that the paper does not print, and for a value not finite or outside its interval.
        """
        line = {"value": value, "paper": paper, "table": table, "row": row, "column": column, "unit": unit, "n": n}
        self._keep([line | {"better": better, "low": low, "high": high, "seed": seed, "seeds": seeds}])

    def metrics(
        self,
        frame: "pandas.DataFrame | pandas.Series",
        *,
        paper: str = "own",
        table: str = "",
        row: str = "system",
        column: str = "column",
        value: str = "value",
        unit: str | Mapping[str, str] = "",
        better: str | Mapping[str, str] = "higher",
        n: int = 0,
        seeds: int = 1,
    ) -> "pandas.DataFrame | pandas.Series":
        """Record every number of a table and return the table, so that the cell displays it.

        A long frame has one number per row, in its column `value`. `row` and `column` name the columns that hold the
        metric's row and column (a column "metric" serves as "column"); any other text applies to all rows.
        The frame's own columns paper, table, unit, better, n, low and high override the arguments.
        A mapping as `unit` means a wide frame: its index is the metric's row, each key of `unit` one of its columns.
        A series is one row of metrics, and its index names their columns. With `column`, it is one column instead.
        NaN values are left out. Errors: ValueError as in `metric`, and for a missing table, unit or n.
        """
        shared = {"paper": paper, "table": table, "n": n, "low": None, "high": None, "seed": None}
        found = lines_of(frame, row=row, column=column, value=value, unit=unit, better=better)
        self._keep([shared | line | {"seeds": seeds} for line in found])
        return frame

    def _keep(self, lines: list[dict[str, Any]]) -> None:
        """Check metrics and write them; each metric replaces an earlier metric with the same key."""
        for line in lines:
            metric = checked_metric(line, seed=self._record["seed"])
            self._metrics[tuple(metric[key] for key in KEY)] = metric
        self._write_metrics()

    def _write_metrics(self) -> None:
        lines = [json.dumps(m, ensure_ascii=False) + "\n" for m in self._metrics.values()]
        write_atomic(self.dir / "metrics.jsonl", "".join(lines))

    @property
    def recorded(self) -> list[dict[str, Any]]:
        """The numbers recorded so far, one mapping per number."""
        return list(self._metrics.values())

    def table(self, name: str, dataframe: "pandas.DataFrame") -> "pandas.DataFrame":
        """Save a table as tables/<name>.csv and return it, so that the cell displays it.

        An index without a name only counts rows and is not saved.
        """
        named = any(level is not None for level in dataframe.index.names)
        write_atomic(self.dir / "tables" / f"{name}.csv", dataframe.to_csv(index=named))
        return dataframe

    def figure(self, name: str, figure: "Figure") -> "Figure":
        """Save a figure as figures/<name>.png and .svg and return it."""
        folder = self.dir / "figures"
        for suffix in ("png", "svg"):
            # Without a date, the same figure gives the same file.
            metadata = {"Date": None} if suffix == "svg" else None
            with replacing(folder / f"{name}.{suffix}") as part:
                figure.savefig(part, dpi=150, bbox_inches="tight", metadata=metadata)
        return figure

    def note(self, key: str, value: Any) -> None:
        """Save a remark in run.json; `stand_in` and `missing` collect their values, another key keeps its last value."""
        notes = self._record["notes"]
        if key in LISTED:
            kept = notes.setdefault(key, [])
            if value not in kept:
                kept.append(value)
        else:
            notes[key] = value
        self._write_record()

    def leave_out(self, reason: str) -> None:
        """End the chapter here, as it has nothing to work on: the runner counts it as done, the report gives the reason.

        Errors: LeftOut, always.
        """
        self.note("left_out", reason)
        self.close()
        raise LeftOut(reason)

    def _write_record(self) -> None:
        write_atomic(self.json_path, json.dumps(self._record, indent=2, ensure_ascii=False, default=str) + "\n")

    def close(self, *, keep_checkpoints: bool = False) -> None:
        """End the run: write seconds and peak memory to run.json, delete checkpoints (unless kept, or MTIVE_KEEP=1)."""
        if not keep_checkpoints and os.environ.get("MTIVE_KEEP") != "1":
            shutil.rmtree(self.dir / "checkpoints", ignore_errors=True)
        seconds = round(time.monotonic() - self._started, 2)
        self._record |= {"seconds": seconds, "peak_mib": peak_mib(), "peak_gpu_mib": peak_gpu_mib()}
        self._write_record()


def start_run(name: str, *, profile: str, seed: int) -> Run:
    """Open a notebook's run folder, seed random, numpy and torch, and display the versions.

    The folder is MTIVE_RUN_DIR if the runner started the notebook, else outputs/<profile>/<name>/. Earlier metrics,
    tables and figures are deleted. The runner did not see a run by hand, so it will run that notebook again.
    Errors: ParameterError for a profile that is no plain name, which could lie outside outputs/.
    """
    if not profile or Path(profile).name != profile:
        raise ParameterError(f"profile {profile!r}: expected a plain name, such as pocket")
    _seed(seed)
    keep_imported()
    project = find_project()
    siblings = Path(os.environ.get("MTIVE_PROFILE_DIR") or project.outputs / profile)
    directory = Path(os.environ.get("MTIVE_RUN_DIR") or siblings / name)
    directory.mkdir(parents=True, exist_ok=True)
    for stale in ("tables", "figures"):
        shutil.rmtree(directory / stale, ignore_errors=True)
    record = {
        "notebook": name,
        "profile": profile,
        "parameters": json.loads(os.environ.get("MTIVE_PARAMETERS", "null")) or parameters_in_cells(),
        "seed": seed,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": os.environ.get("MTIVE_COMMAND", "by hand"),
        "versions": versions(),
        "git": git_state(project.home),
        "device": device_name(),
        "cpu_count": os.cpu_count(),
        "seconds": None,
        "peak_mib": None,
        "peak_gpu_mib": None,
        "fingerprint": None,
        "notes": {},
    }
    run = Run(name, profile=profile, directory=directory, siblings=siblings, record=record)
    run._write_record()
    run._write_metrics()
    _show_versions(record)
    show_frames_well()
    return run


def _seed(seed: int) -> None:
    random.seed(seed)
    try:
        import numpy

        numpy.random.seed(seed % 2**32)
    except ImportError:
        pass
    try:
        import torch

        torch.manual_seed(seed)
    except ImportError:
        pass


def _show_versions(record: dict[str, Any]) -> None:
    cells = {**record["versions"], "device": record["device"], "seed": record["seed"]}
    cells["commit"] = (record["git"]["commit"] or "none")[:10] + (" (changed since)" if record["git"]["dirty"] else "")
    if "IPython" in sys.modules and sys.modules["IPython"].get_ipython() is not None:
        from IPython.display import Markdown, display

        head = " | ".join(cells)
        display(Markdown(f"| {head} |\n|{' --- |' * len(cells)}\n| {' | '.join(str(v) for v in cells.values())} |"))
    else:
        print(", ".join(f"{key} {value}" for key, value in cells.items()))
