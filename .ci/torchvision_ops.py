"""Make `import torchvision` work with a CPU build of torch. The Makefile runs this once, in the new environment.

PyPI's torchvision is compiled for CUDA torch. With a CPU torch its operators do not load, and the import fails with
`operator torchvision::nms does not exist`. This project needs only the pure-Python transforms, so declaring the two
operators before the import is enough. The declaration goes into site-packages (a .pth file and a small module), where
kernels, worker processes and servers of this environment load it. If the import already works, nothing is written.
"""

import pathlib
import subprocess
import sys
import sysconfig

MODULE = '''"""Declares torchvision's operators just before its import (written by .ci/torchvision_ops.py)."""
import importlib.abc
import importlib.machinery
import sys

_kept = []  # a torch Library undoes its definitions when it is collected


def _declare():
    import torch

    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _kept.append(library)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != "torchvision":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None or spec.loader is None:
            return spec
        load = spec.loader.exec_module

        def exec_module(module):
            if not _kept:
                _declare()
            load(module)

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, _Finder())
'''


def import_error() -> str:
    """Return the error of `import torchvision` in a fresh process, or an empty string."""
    done = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stderr.strip()


def main() -> int:
    site = pathlib.Path(sysconfig.get_paths()["purelib"])
    module, hook = site / "torchvision_ops.py", site / "torchvision_ops.pth"
    error = import_error()
    if not error:
        return 0
    if "torchvision::nms" not in error:
        print(f"torchvision does not import, for an unknown reason:\n{error}", file=sys.stderr)
        return 1
    module.write_text(MODULE)
    hook.write_text("import torchvision_ops\n")
    error = import_error()
    if error:
        print(f"torchvision does not import, although its operators are declared:\n{error}", file=sys.stderr)
        return 1
    print("torchvision: operators declared for the CPU build of torch")
    return 0


if __name__ == "__main__":
    sys.exit(main())
