"""Atomic writes: a file appears complete or not at all, even if its writer is killed."""

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, with the same suffix; rename it to `path` when the block succeeds.

    Errors: OSError where `path` is neither free nor a file: a folder, or a device, which a rename as root would remove.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise OSError(f"{path}: found a folder or device, expected a file or nothing there")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}.{os.getpid()}-{threading.get_ident()}.part{path.suffix}")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def remove(path: str | Path) -> None:
    """Remove a folder with all it holds, a file or a link; nothing happens where there is nothing."""
    path = Path(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_atomic(path: str | Path, content: str | bytes) -> None:
    """Write text (UTF-8) or bytes to `path` atomically; create missing folders."""
    with replacing(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)
