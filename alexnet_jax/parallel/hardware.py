"""The accelerators of this machine, whether or not JAX uses them, and processes that share them."""

import os
from pathlib import Path

NVIDIA_DRIVER = Path('/proc/driver/nvidia/version')
PCI_DEVICES = Path('/sys/bus/pci/devices')
GOOGLE = '0x1ae0'
# v3, v4, v5p, v5e, v6e and 7x, as JAX lists them; Google's network cards have other numbers.
TPUS = ('0x0027', '0x005e', '0x0062', '0x0063', '0x006f', '0x0076')


def share_gpu() -> None:
    """Take a GPU's memory as it is needed, in a process that may run beside another one.

    Otherwise JAX reserves three quarters of it at the start, which fails if a run has done so. Call
    it before JAX starts its devices; what the user has set wins.
    """
    os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')


def has_nvidia_gpu() -> bool:
    """Return whether there is an NVIDIA GPU with a driver."""
    return NVIDIA_DRIVER.exists()


def has_tpu() -> bool:
    """Return whether there is a TPU."""
    return any(
        vendor.read_text().strip() == GOOGLE
        and vendor.with_name('device').read_text().strip() in TPUS
        for vendor in PCI_DEVICES.glob('*/vendor')
    )
