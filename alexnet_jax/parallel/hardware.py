"""What this machine has, whether or not JAX uses it: accelerators, and memory for a process."""

import os
from collections.abc import Iterator
from pathlib import Path

import psutil

NVIDIA_DRIVER = Path('/proc/driver/nvidia/version')
PCI_DEVICES = Path('/sys/bus/pci/devices')
GOOGLE = '0x1ae0'
# v3, v4, v5p, v5e, v6e and 7x, as JAX lists them; Google's network cards have other numbers.
TPUS = ('0x0027', '0x005e', '0x0062', '0x0063', '0x006f', '0x0076')

OWN_CGROUPS = Path('/proc/self/cgroup')  # which groups of processes this one is in
CGROUPS = Path('/sys/fs/cgroup')
# For each cgroup controller ('' is cgroup v2): the files with a group's limit and usage, and the
# prefix of the file-cache counters in memory.stat; the kernel drops that cache under pressure.
CGROUP_FILES = {
    '': ('memory.max', 'memory.current', ''),
    'memory': ('memory.limit_in_bytes', 'memory.usage_in_bytes', 'total_'),
}


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


def free_memory() -> int:
    """Return how many bytes a new process could use, within the limits of a container or job."""
    return min([psutil.virtual_memory().available, *_free_in_cgroups()])


def _free_in_cgroups() -> Iterator[int]:
    """What is left of each limit on this process: of its group, and of those that hold it."""
    try:
        groups = [line.split(':', 2) for line in OWN_CGROUPS.read_text().splitlines()]
    except OSError:  # not Linux
        return
    for _, controller, path in groups:
        if controller not in CGROUP_FILES:
            continue
        limit, use, prefix = CGROUP_FILES[controller]
        root = CGROUPS / controller
        group = root / path.lstrip('/')
        for folder in (group, *group.parents):
            if not folder.is_relative_to(root):
                break
            try:
                free = int((folder / limit).read_text()) - int((folder / use).read_text())
                files = _read_table(folder / 'memory.stat')
            except (OSError, ValueError):  # a container sees only its own group; 'max' is no limit
                continue
            cached = files.get(f'{prefix}inactive_file', 0) + files.get(f'{prefix}active_file', 0)
            yield free + cached


def _read_table(path: Path) -> dict[str, int]:
    """Return the numbers of a file with a name and a number on each line."""
    return {line.split()[0]: int(line.split()[1]) for line in path.read_text().splitlines()}
