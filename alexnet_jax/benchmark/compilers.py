"""Compilers for chips that are not present: libtpu for TPUs, XLA's CUDA plugin for GPUs.

Both are set up only to compile: no chip is touched or waited for.
"""

import importlib.metadata
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies

from alexnet_jax.benchmark.chips import Chip, Gpu
from alexnet_jax.errors import BadInput

LIBTPU = 'libtpu==0.0.42.1'  # the version whose texts `tpu_program` was written for
CUDA_PLUGINS = ('jax_plugins.xla_cuda13', 'jax_plugins.xla_cuda12')
MAX_GPUS = 8  # of a host

# What XLA must know of a GPU to compile for it; fields that are equal in all of `CHIPS` are here.
GPU_DESCRIPTION = """
gpu_device_info {{
  cuda_compute_capability {{ {capability} }}
  core_count: {multiprocessors}
  fpus_per_core: 128
  clock_rate_ghz: {ghz}
  memory_bandwidth: {bandwidth:.0f}
  device_memory_size: {memory:.0f}
  l2_cache_size: {l2_cache}
  shared_memory_per_core: {shared_memory}
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: {shared_memory_per_block}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
"""


def find_devices(topology: str, chip: Chip, folder: Path) -> tuple[Sequence[Any], str]:
    """Return the devices of a topology, to compile for, and the name of their compiler.

    Call it before JAX initializes its devices.

    Args:
      topology: A chip and a layout, such as 'v5e:2x2' or 'h100:4'.
      chip: The chip.
      folder: Where libtpu writes the code that it generates.

    Raises:
      BadInput: There is no such topology, it spans several hosts, or its compiler is missing.
    """
    jax.config.update('jax_platforms', 'cpu')
    jax.config.update('jax_enable_compilation_cache', False)  # a cached program has no code to read
    if isinstance(chip, Gpu):
        return _find_gpus(topology, chip)
    return _find_tpus(topology, chip, folder)


def _find_tpus(topology: str, chip: Chip, folder: Path) -> tuple[Sequence[Any], str]:
    if importlib.util.find_spec('libtpu') is None:
        raise BadInput(f'plan needs the TPU compiler: pip install {LIBTPU}')
    os.environ |= {
        'TPU_SKIP_MDS_QUERY': '1',  # do not ask the cloud which machine this is
        'TPU_WORKER_HOSTNAMES': 'localhost',
        'TPU_ACCELERATOR_TYPE': 'v5litepod-4',  # of this machine, which does not matter
        'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',  # beside a run
        'LIBTPU_INIT_ARGS': f'--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true '
        '--xla_jf_dump_llo_pass_label_regex=^final_bundles$',
    }
    try:
        found = topologies.get_topology_desc(
            platform='tpu', topology_name=topology, **dict(chip.options)
        )
    except jax.errors.JaxRuntimeError as error:
        raise BadInput(f'--topology={topology}: {error}') from error
    if len({device.process_index for device in found.devices}) > 1:
        raise BadInput(
            f'--topology={topology} spans several hosts; a layout of one host is {chip.example}'
        )
    return found.devices, f'libtpu {importlib.metadata.version("libtpu")}'


def _find_gpus(topology: str, chip: Gpu) -> tuple[Sequence[Any], str]:
    kind, _, count = topology.partition(':')
    if count not in map(str, range(1, MAX_GPUS + 1)):
        raise BadInput(
            f'--topology={topology}; after the colon it must be the number of GPUs in a host, '
            f'1 to {MAX_GPUS}'
        )
    if not any(map(is_installed, CUDA_PLUGINS)):
        raise BadInput(
            f'plan needs the GPU compiler, which the wheels for CPUs lack: '
            f'pip install "jax[cuda13]=={jax.__version__}"'
        )
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')  # XLA reports that there is no driver
    found = topologies.get_topology_desc(
        platform='cuda',
        topology_name=kind,
        topology=f'1x1x{count}',
        target_config=describe_gpu(chip),
    )
    return found.devices, f"XLA's CUDA plugin {jax.__version__}"


def describe_gpu(chip: Gpu) -> str:
    """Return a GPU's description in the text format of XLA's GpuTargetConfigProto."""
    major, minor = chip.capability
    capability = f'major: {major} minor: {minor}'
    if major >= 9:  # code for exactly this chip may use all that it has
        capability += ' feature_extension: ACCELERATED_FEATURES'
    return GPU_DESCRIPTION.format(
        capability=capability,
        multiprocessors=chip.multiprocessors,
        ghz=chip.clock / 1e9,
        bandwidth=chip.bandwidth,
        memory=chip.memory,
        l2_cache=chip.l2_cache,
        shared_memory=chip.shared_memory,
        shared_memory_per_block=chip.shared_memory - 1024,
    )


def is_installed(module: str) -> bool:
    """Return whether a module exists, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of its package
        return False
