"""Four-bit weights by bitsandbytes, and the mend of a fault in its CPU kernel."""

import warnings
from functools import cache

import torch
from transformers import BitsAndBytesConfig

RESTORE = "bitsandbytes::dequantize_4bit"


def four_bit_options(compute: torch.dtype, device: str) -> dict:
    """Return from_pretrained's arguments to keep linear layers in 4 bits and compute in `compute`."""
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute)
    own = torch.cuda.current_device() if device == "cuda" else device  # the GPU of this process
    return {"quantization_config": config, "device_map": {"": own}}


@cache
def restore_block_by_block() -> torch.library.Library:
    """Make bitsandbytes restore 4-bit weights on a CPU one block a row, for the rest of the process.

    On a CPU with AVX-512, bitsandbytes 0.50 gives a row whose length is no multiple of the block the scales of other
    blocks: an error of 0.24 of the weights in place of 0.09. A row of exactly one block has one scale.
    """
    kernel, on_cpu = torch.library.get_kernel(RESTORE, "CPU"), torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)

    def restored(packed, scales, block, kind, shape, dtype):  # the operator's own arguments, in their order
        n = torch.Size(shape).numel()
        rows = [n // block, block] if n % block == 0 else [1, n]
        return kernel.call_boxed(on_cpu, packed, scales, block, kind, rows, dtype).view(shape)

    library = torch.library.Library(RESTORE.partition(":")[0], "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of every replaced kernel
        library.impl("dequantize_4bit", restored, "CPU", allow_override=True)
    return library
