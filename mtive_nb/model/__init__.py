"""The frozen VLM, its stack of adapters, and their training."""

import logging
import warnings

# Two notices of the libraries below, on which no reader of a notebook can act.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # faster 4-bit kernels are not installed
warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)  # peft asks for it
