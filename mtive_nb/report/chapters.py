"""The run folders that the report shows."""

from pathlib import Path


def run_folders(profile_dir: Path) -> list[Path]:
    """Return the folders of a profile's good results, in order; failed and partial runs are left out."""
    found = profile_dir.glob("[0-9][0-9]_*") if profile_dir.is_dir() else ()
    return sorted(p for p in found if p.is_dir() and p.suffix == "")
