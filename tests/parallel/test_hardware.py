"""Accelerators and memory, in a stand-in for what Linux says of them, and sharing a GPU."""

import os
from types import SimpleNamespace

import psutil
import pytest

from alexnet_jax.parallel import hardware, runtime

PREALLOCATE = 'XLA_PYTHON_CLIENT_PREALLOCATE'


@pytest.mark.parametrize(
    ('devices', 'expected'),
    [
        ([], False),
        ([('0x8086', '0x0063')], False),  # Intel's
        ([('0x1ae0', '0x0042')], False),  # Google's network card
        ([('0x1ae0', '0x0042'), ('0x1ae0', '0x0063')], True),  # and a v5e
    ],
)
def test_tpu(tmp_path, monkeypatch, devices, expected):
    for number, (vendor, device) in enumerate(devices):
        folder = tmp_path / f'0000:00:0{number}.0'
        folder.mkdir()
        (folder / 'vendor').write_text(f'{vendor}\n')
        (folder / 'device').write_text(f'{device}\n')
    monkeypatch.setattr(hardware, 'PCI_DEVICES', tmp_path)
    assert hardware.has_tpu() == expected


def test_no_list_of_devices(tmp_path, monkeypatch):
    monkeypatch.setattr(hardware, 'PCI_DEVICES', tmp_path / 'absent')
    assert not hardware.has_tpu()


def test_commands_that_score_share_a_gpu(monkeypatch):
    monkeypatch.setenv('XLA_FLAGS', os.environ.get('XLA_FLAGS', ''))
    monkeypatch.setattr(runtime.malloc, 'configure_malloc', lambda: None)
    monkeypatch.setenv(PREALLOCATE, 'true')  # the user's choice
    runtime.configure_runtime()
    assert os.environ[PREALLOCATE] == 'true'
    monkeypatch.delenv(PREALLOCATE)
    runtime.configure_runtime(shares_gpu=False)
    assert PREALLOCATE not in os.environ
    runtime.configure_runtime()
    assert os.environ[PREALLOCATE] == 'false'
    monkeypatch.setenv(PREALLOCATE, 'false')  # so that it is undone


# Memory


@pytest.fixture
def linux(tmp_path, monkeypatch):
    """linux(groups, {folder: (limit, use, file pages)}): 64 MB are free on the machine."""

    def describe(groups, folders, version=2):
        (tmp_path / 'groups').write_text(groups)
        limit_name, use_name, prefix = {
            1: ('memory.limit_in_bytes', 'memory.usage_in_bytes', 'total_'),
            2: ('memory.max', 'memory.current', ''),
        }[version]
        for name, (limit, use, pages) in folders.items():
            folder = tmp_path / 'cgroup' / name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / limit_name).write_text(f'{limit}\n')
            (folder / use_name).write_text(f'{use}\n')
            lines = ('anon 7', f'{prefix}inactive_file {pages}', f'{prefix}active_file 500')
            (folder / 'memory.stat').write_text('\n'.join(lines))

    monkeypatch.setattr(psutil, 'virtual_memory', lambda: SimpleNamespace(available=FREE))
    monkeypatch.setattr(hardware, 'OWN_CGROUPS', tmp_path / 'groups')
    monkeypatch.setattr(hardware, 'CGROUPS', tmp_path / 'cgroup')
    return describe


FREE = 64_000_000


def test_memory_of_a_machine(linux):
    linux('0::/user.slice\n', {'user.slice': ('max', 30_000_000, 0)})
    assert hardware.free_memory() == FREE


def test_memory_of_a_container(linux):
    """Pages of files that are kept in memory are given up when it runs out."""
    linux('0::/\n', {'.': (40_000_000, 30_000_000, 20_000_000)})
    assert hardware.free_memory() == 40_000_000 - 30_000_000 + 20_000_000 + 500


def test_more_than_the_machine_has(linux):
    linux('0::/\n', {'.': (10**12, 30_000_000, 0)})
    assert hardware.free_memory() == FREE


def test_memory_of_a_job_is_that_of_the_group_that_holds_it(linux):
    groups = {'job_7/step_0': ('max', 1, 0), 'job_7': (9_000_000, 4_000_000, 0)}
    linux('0::/job_7/step_0\n', groups)
    assert hardware.free_memory() == 5_000_500


@pytest.mark.parametrize(('limit', 'free'), [(40_000_000, 10_000_500), (2**63 - 4096, FREE)])
def test_memory_in_the_first_version(linux, limit, free):
    """Whose groups a container sees under other names than it reads here."""
    groups = '5:cpu,cpuacct:/docker/4f\n4:memory:/docker/4f\n'
    linux(groups, {'memory': (limit, 30_000_000, 0)}, version=1)
    assert hardware.free_memory() == free


def test_memory_without_linux(tmp_path, monkeypatch):
    monkeypatch.setattr(hardware, 'OWN_CGROUPS', tmp_path / 'absent')
    monkeypatch.setattr(psutil, 'virtual_memory', lambda: SimpleNamespace(available=FREE))
    assert hardware.free_memory() == FREE
