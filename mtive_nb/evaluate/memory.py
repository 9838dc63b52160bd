"""The memory that a piece of work needs on top of what is held when it begins."""

import weakref
from collections.abc import Callable, Mapping

import pandas as pd
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Held(TorchDispatchMode):
    """Counts the bytes of the storages that operations make, for as long as anything holds them."""

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
    """Bytes by which `way` exceeds at its peak what was held before: activations, gradients, copies of weights.

    On a GPU what torch's allocator counts. On a CPU the tensors that operations return, so that the figure is the same
    on every machine; what a kernel holds while it runs is not in it, nor are other threads' tensors.
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
    """The peak of each way, in MB: system, value; beside the times of latency.py."""
    return pd.DataFrame([{"system": name, "value": peak_memory(way) / 1e6} for name, way in ways.items()])
