"""The experts in service: their versions, their weights within a memory budget, and the version of each request.

An expert trained in a notebook is a folder (`stack/DD` with stack.json beside it). `add` and `update` check its lineage
against the served trunk, load its weights as a new version ("DD@2") and check that they change the model. The model
itself stays untouched, so answers continue meanwhile. A version is dropped only when no request holds it. Versions
beyond the budget are evicted, least recently used first, and loaded again when a request needs them; what is then in the
folder must be what the version first held.
"""

import math
import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mtive_nb.model.adapter import Adapter
from mtive_nb.model.lineage import LineageError
from mtive_nb.model.mixed import check_expert
from mtive_nb.model.stack import LoraStack

MIB = 2**20


@dataclass
class Version:
    """One version of an expert: its folder, its weights while in memory, and the number of requests that hold it."""

    expert: str
    number: int
    folder: Path
    name: str  # the adapter's name in the folder
    adapter: Adapter | None = None  # None: not in memory
    sha256: str = ""  # of the adapter that it first held
    size: int = 0  # bytes in memory
    held: int = 0
    used: int = 0  # the pool's clock at the last use
    retired: bool = False

    @property
    def alias(self) -> str:
        return f"{self.expert}@{self.number}"


@dataclass
class Serviced:
    """An expert under its public name; `weights` {number: weight} distribute its requests over versions."""

    versions: dict[int, Version] = field(default_factory=dict)
    weights: dict[int, float] = field(default_factory=dict)
    pinned: bool = False


class ExpertPool:
    """Experts over one trunk of a stack. Any thread may call any method, and none waits while another reads a folder.

    budget_mib: memory for experts' weights; beyond it, those unused for longest leave. seed: of the draw among versions
    that share an expert's requests.
    Errors: KeyError for an unknown expert or version; LineageError for a folder that does not belong on the trunk, or
    whose content is no longer what an evicted version first held; NotFiniteError; RuntimeError for an adapter that
    changes nothing; MemoryError if the budget is too small.
    """

    def __init__(self, stack: LoraStack, *, trunk: str | None, budget_mib: float = float("inf"), seed: int = 0) -> None:
        if not budget_mib > 0:
            raise ValueError(f"budget_mib: found {budget_mib}, expected more than 0")
        self.stack, self.trunk, self.budget = stack, trunk, budget_mib * MIB
        self._books = threading.RLock()
        self.forward = threading.Lock()  # of the model: one batch at a time, since its hooks belong to one
        self.experts: dict[str, Serviced] = {}
        self._numbers: dict[str, int] = {}  # last version of each expert; a number is never reused
        self._clock, self._draw = 0, random.Random(seed)
        stack.activate(trunk)

    def add(self, expert: str, folder: Path, name: str | None = None, *, number: int | None = None) -> Version:
        """Put a new expert into service.

        `name`: its name in its folder (default: the name `expert`). `number`: of its version (default: the next).
        """
        with self._books:
            self._assert_new(expert)
        version, adapter = self._read(expert, folder, name)
        with self._books:
            self._assert_new(expert)  # perhaps added since
            return self._serve(Serviced(), version, adapter, number)

    def update(self, expert: str, folder: Path, name: str | None = None, *, number: int | None = None) -> Version:
        """Serve a new version from now on; requests that hold the old version finish with it. Arguments as in `add`."""
        with self._books:
            self._expert(expert)
        version, adapter = self._read(expert, folder, name)
        with self._books:
            return self._serve(self._expert(expert), version, adapter, number)

    def _read(self, expert: str, folder: Path, name: str | None) -> tuple[Version, Adapter]:
        """Read and check a new version without the lock, since requests go on meanwhile."""
        version = Version(expert, 0, Path(folder).absolute(), name or expert)
        adapter = self._adapter(version)
        adapter.assert_alive(family=self.stack.vlm.family)
        return version, adapter

    def _serve(self, entry: Serviced, version: Version, adapter: Adapter, number: int | None) -> Version:
        expert, last = version.expert, self._numbers.get(version.expert, 0)
        version.number = number or last + 1
        self._keep(version, adapter, others=())
        self._numbers[expert] = max(version.number, last)
        self.experts[expert] = entry
        entry.versions[version.number] = version
        self.split(expert, {version.number: 1.0})
        return version

    def split(self, expert: str, weights: dict[int, float]) -> None:
        """Distribute the expert's requests over versions by weight; an unlisted version is dropped when it is free."""
        with self._books:
            entry = self._expert(expert)
            missing = [number for number in weights if number not in entry.versions]
            if missing or not 0 < sum(weights.values()) < math.inf or min(weights.values()) < 0:
                raise KeyError(
                    f"expert {expert!r}: found weights {weights}, expected some of versions {sorted(entry.versions)}"
                )
            entry.weights = {number: weight for number, weight in weights.items() if weight}
            for number, version in list(entry.versions.items()):
                version.retired = number not in entry.weights
                self._drop_if_free(version)

    def remove(self, expert: str) -> None:
        """Take an expert out of service; requests that hold it finish with it."""
        with self._books:
            for version in list(self._expert(expert).versions.values()):
                version.retired = True
                self._drop_if_free(version)
            del self.experts[expert]

    def pin(self, expert: str, *, pinned: bool = True) -> None:
        """Keep an expert in memory: it is never evicted."""
        with self._books:
            self._expert(expert).pinned = pinned

    def hold(self, expert: str | None) -> Version | None:
        """Choose the version of a request by weight (None: the trunk alone) and keep it until `release`."""
        if expert is None:
            return None
        with self._books:
            entry = self._expert(expert)
            (number,) = self._draw.choices(list(entry.weights), list(entry.weights.values()))
            entry.versions[number].held += 1
            return entry.versions[number]

    def release(self, version: Version | None) -> None:
        """Release a version whose request has ended."""
        if version is None:
            return
        with self._books:
            version.held -= 1
            self._drop_if_free(version)

    def in_memory(self, versions: Sequence[Version | None]) -> list[Adapter | None]:
        """Return the weights of these versions, all at once; they stay usable even if the pool evicts them."""
        found = {}
        for version in {id(v): v for v in versions if v is not None}.values():
            adapter = version.adapter or self._adapter(version)
            with self._books:
                self._keep(version, adapter, others=versions)
            found[id(version)] = adapter
        return [found[id(v)] if v is not None else None for v in versions]

    def state(self) -> list[dict]:
        """Return a row per version: expert, version, weight, requests, resident, pinned, MiB."""
        with self._books:
            return [
                {"expert": name, "version": v.number, "weight": entry.weights.get(v.number, 0.0), "requests": v.held,
                 "resident": v.adapter is not None, "pinned": entry.pinned, "MiB": round(v.size / MIB, 3)}
                for name, entry in self.experts.items() for v in entry.versions.values()
            ]  # fmt: skip

    def _expert(self, expert: str) -> Serviced:
        if expert not in self.experts:
            raise KeyError(f"no expert {expert!r} in service; there are {sorted(self.experts)}")
        return self.experts[expert]

    def _assert_new(self, expert: str) -> None:
        if expert in self.experts:
            raise KeyError(f"expert {expert!r} is in service already; update it")

    def _adapter(self, version: Version) -> Adapter:
        """Read the version's weights from its folder, as it first held them."""
        adapter = self.stack.read(version.folder, version.name)
        if version.sha256 not in ("", adapter.sha256):
            raise LineageError(
                f"{version.alias}: {version.folder / version.name} now holds sha256 {adapter.sha256[:12]}..., the version "
                f"first held {version.sha256[:12]}...; update the expert to serve what is there now"
            )
        check_expert(adapter, self.trunk)
        return adapter

    def _keep(self, version: Version, adapter: Adapter, *, others: Sequence[Version | None]) -> None:
        """Mark the version as used, and keep its weights within the budget, without evicting `others`."""
        self._clock += 1
        version.used = self._clock
        if version.adapter is None:
            version.sha256, version.size = adapter.sha256, adapter.size
            self._make_room(version, keep=others)
            version.adapter = adapter

    def _make_room(self, newcomer: Version, *, keep: Sequence[Version | None]) -> None:
        """Evict versions, least recently used first, until the newcomer and the rest fit the budget."""
        others = [v for e in self.experts.values() for v in e.versions.values() if v.adapter is not None]
        needed = newcomer.size + sum(v.size for v in others)
        for version in sorted(others, key=lambda v: v.used):
            if needed <= self.budget:
                return
            if version not in keep and not self.experts[version.expert].pinned:
                version.adapter = None
                needed -= version.size
        if needed > self.budget:
            raise MemoryError(
                f"experts: found {needed / MIB:.2f} MiB needed at once, the budget is {self.budget / MIB:.2f}"
            )

    def _drop_if_free(self, version: Version) -> None:
        if version.retired and not version.held:
            version.adapter = None
            entry = self.experts.get(version.expert)
            if entry and entry.versions.get(version.number) is version:  # the name, or the number, may be another's now
                del entry.versions[version.number]
