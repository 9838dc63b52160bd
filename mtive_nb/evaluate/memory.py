"""Measure the memory that a computation needs beyond the memory allocated when it starts."""

import weakref
from collections.abc import Callable, Mapping

import pandas as pd
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Held(TorchDispatchMode):
    """Counts the bytes of storages that operations allocate, until each storage is freed."""

    def __init__(self) -> None:
        super().__init__()
        self.known: set[int] = set()
        self.now = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN204
        kwargs = kwargs or {}
        for tensor in tree_leaves((args, kwargs)):
            self._see(tensor, there_before=True)
        made = func(*args, **kwargs)
        for tensor in tree_leaves(made):
            self._see(tensor, there_before=False)
        self.peak = max(self.peak, self.now)
        return made

    def _see(self, tensor: object, *, there_before: bool) -> None:
        if not isinstance(tensor, torch.Tensor) or (storage := tensor.untyped_storage())._cdata in self.known:
            return
        size = 0 if there_before else storage.nbytes()
        self.known.add(storage._cdata)
        self.now += size
        weakref.finalize(storage, self._gone, storage._cdata, size)

    def _gone(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


def peak_memory(way: Callable[[], object]) -> int:
    """Return the peak bytes that `way` allocates beyond prior memory: activations, gradients, copies of weights.

    GPU: torch's allocator counts. CPU: the tensors that operations return count, so the figure is the same on every
    machine. The CPU figure excludes a kernel's temporary memory and other threads' tensors.
    """
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        way()
        return torch.cuda.max_memory_allocated() - before
    with _Held() as held:
        way()
    return held.peak


def peaks_of(ways: Mapping[str, Callable[[], object]]) -> pd.DataFrame:
    """Return each variant's peak memory in MB, a table of system and value like the times of latency.py."""
    return pd.DataFrame([{"system": name, "value": peak_memory(way) / 1e6} for name, way in ways.items()])
