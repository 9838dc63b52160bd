"""The photos of a benchmark's rows: a folder or an archive in which a photo is found by the end of its URL.

The rows name photos by their addresses on the web. Nothing is loaded from there: the photos were fetched beforehand.
"""

from __future__ import annotations

import os
import re
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from unicodedata import normalize
from urllib.parse import unquote, urlsplit

from mtive_nb.data.photos import file_sha256, path_fault, photo_fault


class PhotoStore:
    """Finds photos by the last part of their URL, by as many parts as are needed where several files have that name."""

    def __init__(self, photos: str | Path, *, cache: str | Path | None = None) -> None:
        """Index a folder with all folders below, or an archive (zip, tar), which `unpacked` lays into `cache`.

        Errors: FileNotFoundError, or ValueError for a file that is no usable archive.
        """
        photos = Path(photos)
        if not photos.exists():
            raise FileNotFoundError(f"photos {photos}: not found; expected a folder of photos, or a zip or tar of them")
        self.root = (photos if photos.is_dir() else unpacked(photos, cache)).resolve()
        self._by_name: dict[str, list[PurePosixPath]] = defaultdict(list)
        for folder, _, names in os.walk(self.root):
            for name in names:
                self._by_name[normalize("NFC", name)].append(PurePosixPath(Path(folder, name).as_posix()))

    def find(self, url: str) -> tuple[str, str | None]:
        """Return (absolute path, None) of a URL's or path's photo, or ("", why there is none)."""
        path = normalize("NFC", re.sub(r"\\", "/", urlsplit(url).path if "://" in url else url))
        parts = PurePosixPath(path).parts
        if not parts:
            return "", "no file name in it"
        if parts[-1] not in self._by_name:  # a downloader writes a%20b.jpg under either name
            parts = PurePosixPath(normalize("NFC", unquote(path))).parts
        found = self._by_name.get(parts[-1], [])
        for k in range(2, len(parts) + 1):
            if len(found) > 1:
                found = [one for one in found if _form_c(one.parts[-k:]) == parts[-k:]] or found
        if len(found) != 1:
            number = len(found) or "no"
            return "", f"{number} files of {self.root.name} have the name {parts[-1]}; expected one"
        relative = Path(found[0]).relative_to(self.root).as_posix()
        return (str(found[0]), None) if not (fault := path_fault(self.root, relative)) else ("", fault)


def _form_c(parts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(normalize("NFC", part) for part in parts)


def photo_faults(paths: Iterable[str]) -> dict[str, str]:
    """What is wrong with each photo that does not decode; photos are decoded in threads."""
    paths = sorted(set(paths))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return {path: fault for path, fault in zip(paths, pool.map(photo_fault, paths), strict=True) if fault}


def unpacked(archive: str | Path, cache: str | Path | None = None) -> Path:
    """Unpack a zip or tar into a folder of `cache` that is named by its content; an earlier one is returned as it is.

    cache: default: a hidden folder beside the archive. No member is written outside of the folder: a zip's paths are
    cleaned, a tar with links or paths that lead out is refused. Errors: ValueError for a broken or refused archive, and
    where the content is larger than the free disk space.
    """
    archive = Path(archive)
    home = Path(cache) if cache is not None else archive.parent / ".unpacked"
    folder = home / file_sha256(archive)[:16]
    if folder.is_dir():
        return folder
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".part-", dir=home) as part:
        try:
            _extract(archive, Path(part) / "photos")
        except (zipfile.BadZipFile, tarfile.TarError, RuntimeError, EOFError, OSError, zlib.error) as error:
            raise ValueError(f"photos {archive}: cannot be unpacked: {error}") from None
        (Path(part) / "photos").rename(folder)
    return folder


def _extract(archive: Path, folder: Path) -> None:
    folder.mkdir()
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            _check_space(sum(one.file_size for one in zipped.infolist()), folder)
            zipped.extractall(folder)
    elif tarfile.is_tarfile(archive):
        with tarfile.open(archive) as tape:
            _check_space(sum(one.size for one in tape), folder)
            tape.extractall(folder, filter="data")
    else:
        raise zipfile.BadZipFile("neither a zip nor a tar; give a folder, or an archive of one of these kinds")


def _check_space(needed_bytes: int, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if needed_bytes > free:
        raise OSError(f"its content needs {needed_bytes / 2**20:.0f} MiB, the disk has {free / 2**20:.0f} MiB left")
