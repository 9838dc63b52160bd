"""mtive-nb: what two notebooks share. Importing it does nothing else."""

__version__ = "0.1.0"
