"""Every command of docs/launching.md, run up to the point where processes meet.

The programs that start training elsewhere are stood in for; see `launcher_stand_ins.py`.
"""

import importlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys

import pytest
from absl import flags
from absl.testing import flagsaver
from helpers import ROOT
from launcher_stand_ins import calls_of
from pages import blocks, without_blocks

from alexnet_jax import cli, main
from alexnet_jax.parallel import processes
from alexnet_jax.run import remote, workdir

PAGE = (ROOT / 'docs/launching.md').read_text()

# (launcher, number of processes, number of this one) of each training command, by section. None:
# it trains alone. On a TPU and in Kubernetes, only JAX knows the numbers.
CLUSTERS = {
    'One GPU': [None, None, None, None],
    'Eight GPUs in one node': [None, None],
    'Two nodes without a scheduler': [('the flags', 2, 0), ('the flags', 2, 1)],
    'Slurm': [('Slurm', 2, 1), ('Slurm', 2, 1), ('Slurm', 2, 1)],
    'Open MPI': [('Open MPI', 2, 1), ('Open MPI', 2, 1)],
    'A TPU VM': [None],
    'A TPU slice': [('Cloud TPU', None, None)],
    'A workdir or data in a bucket': [None],
    'Kubernetes': [('Kubernetes', None, None)],
    'SkyPilot': [('the flags', 2, 1), ('the flags', 2, 1)],
}


def commands(section: str) -> list[str]:
    """Return the commands of a section's bash blocks."""
    text = ''.join(text for language, text in blocks(section) if language == 'bash')
    return text.replace('\\\n', ' ').splitlines()


SECTIONS = {
    section.split('\n', 1)[0]: commands(section) for section in re.split(r'^#+ ', PAGE, flags=re.M)
}


class Met(Exception):
    """A command has got to where its processes meet; its argument is the Cluster."""


@pytest.fixture
def tree(tmp_path):
    """A clone of the repository, as far as the launch scripts need it."""
    tree = tmp_path / 'clone'
    for name in ('launch', 'configs'):
        shutil.copytree(ROOT / name, tree / name)
    for name in ('requirements.txt', 'pyproject.toml'):
        shutil.copy(ROOT / name, tree)
    environ = {name: value for name, value in os.environ.items() if not name.startswith('GIT_')}
    environ |= {'GIT_CONFIG_GLOBAL': '/dev/null', 'GIT_CONFIG_NOSYSTEM': '1'}
    subprocess.run(['git', 'init', '--quiet', tree], env=environ, check=True)
    return tree


@pytest.fixture
def dry_run(monkeypatch):
    """dry_run(arguments of Python, environment) -> the Cluster, or None, that main would join."""

    def meet(_, cluster, timeout):
        raise Met(cluster)

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(workdir, 'check', lambda *_: None)
    # It would look into gs://BUCKET.
    monkeypatch.setattr(remote, 'local_copy', lambda folder, *_, **__: folder)
    monkeypatch.setattr(main, 'configure_runtime', lambda *_, **__: None)
    monkeypatch.setattr(processes.ProcessGroup, '__init__', meet)
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: name)  # libtpu, kubernetes
    monkeypatch.setenv('TPU_SKIP_MDS_QUERY', '1')  # no TPU here

    def run(arguments, environ):
        for name, value in environ.items():
            if re.match(r'SLURM_|OMPI_|TPU_|KUBERNETES_|JOB_', name):
                monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, 'argv', arguments[1:])
        with flagsaver.flagsaver(), pytest.raises(Met) as met:
            main.main()
        return met.value.args[0]

    return run


def test_every_section_is_listed():
    assert CLUSTERS.keys() == {name for name, found in SECTIONS.items() if found} - {
        'Launching: from one GPU to many hosts'
    }


@pytest.mark.slow
@pytest.mark.parametrize('section', CLUSTERS)
def test_training_commands(section, tree, tmp_path, dry_run):
    found = []
    for i, command in enumerate(SECTIONS[section]):
        if command == 'bash launch/tpu.sh stop':
            continue  # nothing to stop here; test_launchers.py has it
        (tmp_path / str(i)).mkdir()
        for arguments, environ in calls_of(command, tree, tmp_path / str(i)):
            if arguments[:2] == ['-m', 'alexnet_jax.main']:
                cluster = dry_run(arguments, environ)
                found.append(
                    cluster and (cluster.launcher, cluster.num_processes, cluster.process_id)
                )
    assert found == CLUSTERS[section]


@pytest.mark.slow
def test_the_first_section_checks_with_the_doctor(tree, tmp_path, monkeypatch):
    (command,) = SECTIONS['Launching: from one GPU to many hosts']
    ((arguments, _),) = calls_of(command, tree, tmp_path)
    assert arguments[:2] == ['-m', 'alexnet_jax.doctor']
    importlib.import_module(arguments[1])
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, 'argv', arguments[1:])
    with flagsaver.flagsaver():
        cli.define_flags()
        assert cli.parse_flags(sys.argv) == arguments[1:2]


def test_open_mpi_binds_no_process_to_one_core():
    """As it does by default with one or two: all images of a node would be decoded there."""
    found = [command for command in SECTIONS['Open MPI'] if command.startswith('mpirun ')]
    assert len(found) == PAGE.count('\nmpirun ') == 2
    for command in found:
        assert ' --bind-to none ' in command.partition(' python ')[0] + ' '


def test_an_image_holds_nothing_that_git_ignores():
    """`COPY . /alexnet` would take the environment, and the runs with their checkpoints."""
    ignored = {name.rstrip('/') for name in (ROOT / '.gitignore').read_text().split()}
    lines = (ROOT / '.dockerignore').read_text().splitlines()
    left_out = {line.removeprefix('**/') for line in lines if line and line[0] != '#'}
    assert ignored - left_out == set()
    assert '.git' not in left_out  # where a run reads the revision


def test_flags_named_in_the_text_exist():
    named = set(re.findall(r'--([a-z_]+)', without_blocks(PAGE)))
    named -= {'config', 'workdir', 'scratch'}  # which main defines when it runs
    named -= {'output', 'recursive'}  # of export and others, of gcloud storage rsync
    named -= {'bind'}  # --bind-to, of mpirun
    assert named == {
        'coordinator_address',
        'num_processes',
        'process_id',
        'initialization_timeout',
        'mode',
        'checkpoints',
    }
    assert named <= set(flags.FLAGS)


def test_jax_is_the_version_that_is_required():
    (version,) = re.findall(r'^jax==(.*)', (ROOT / 'requirements.txt').read_text(), re.M)
    found = re.findall(r'"jax\[(.*?)\]==([\d.]+)"', PAGE)
    assert found
    assert {pin for _, pin in found} == {version}
    extras = importlib.metadata.metadata('jax').get_all('Provides-Extra')
    assert {extra for names, _ in found for extra in names.split(',')} <= set(extras)
