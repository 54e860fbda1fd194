"""The revision of the code that a run records."""

import os
import subprocess
from pathlib import Path

import jax
import pytest
from helpers import ROOT

from alexnet_jax.run import environment


@pytest.fixture(autouse=True)
def own_variables(monkeypatch):
    """Without those of a git hook, which name the developer's repository, and without REVISION."""
    for name in list(os.environ):
        if name.startswith(('GIT_', environment.REVISION)):
            monkeypatch.delenv(name)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A git checkout with a package, a recipe and records, as the code would see its own."""
    monkeypatch.setattr(environment, '__file__', str(tmp_path / 'alexnet_jax/run/environment.py'))
    for name in ('alexnet_jax/run/environment.py', 'configs/x.py', 'results/x.jsonl'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text('1')
    return tmp_path


def git(folder: Path, *arguments: str) -> str:
    """Run git without the settings of the user and the machine, such as to sign commits."""
    settings = ('user.name=x', 'user.email=x@example.com', 'safe.directory=*')
    command = ['git', '-C', str(folder), *(word for s in settings for word in ('-c', s))]
    done = subprocess.run(
        [*command, *arguments],
        env=os.environ | {'GIT_CONFIG_GLOBAL': '/dev/null', 'GIT_CONFIG_NOSYSTEM': '1'},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.parametrize(
    ('changed', 'ending'),
    [
        ('alexnet_jax/run/environment.py', '-dirty'),
        ('configs/x.py', '-dirty'),
        ('results/x.jsonl', ''),  # records grow while experiments run
    ],
)
def test_the_commit_and_whether_code_has_changed(checkout, changed, ending):
    git(checkout, 'init', '--quiet')
    git(checkout, 'add', '.')
    git(checkout, 'commit', '--quiet', '--message=first')
    commit = git(checkout, 'rev-parse', 'HEAD')
    assert environment.git_revision() == commit
    (checkout / changed).write_text('2')
    assert environment.git_revision() == commit + ending


def test_a_package_that_is_half_uninstalled(monkeypatch, tmp_path):
    """Nothing but an empty folder is left of it, as on a network file system."""
    (tmp_path / 'gone-1.0.dist-info').mkdir()
    (tmp_path / 'other_gone-2.0.dist-info').mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    versions = environment._versions()
    assert versions['jax'] == jax.__version__
    assert None not in versions


def test_outside_git(checkout, monkeypatch):
    monkeypatch.setenv('GIT_CEILING_DIRECTORIES', str(checkout.parent))
    assert environment.git_revision() is None
    with monkeypatch.context() as variables:
        variables.setenv('ALEXNET_JAX_REVISION', 'abc-dirty')
        assert environment.git_revision() == 'abc-dirty'
    monkeypatch.setenv('PATH', '')
    assert environment.git_revision() is None


@pytest.mark.parametrize('ignored', [True, False])
def test_installed_in_the_checkout_of_another_project(tmp_path, monkeypatch, ignored):
    packages = tmp_path / '.venv/lib/site-packages'
    (packages / 'alexnet_jax/run').mkdir(parents=True)
    (packages / 'alexnet_jax/run/environment.py').touch()
    monkeypatch.setattr(environment, '__file__', str(packages / 'alexnet_jax/run/environment.py'))
    (tmp_path / '.gitignore').write_text('.venv\n' if ignored else '')
    git(tmp_path, 'init', '--quiet')
    git(tmp_path, 'add', '.gitignore')
    git(tmp_path, 'commit', '--quiet', '--message=theirs')
    assert environment.git_revision() is None


def test_it_is_of_the_code_and_not_of_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = environment.git_revision()
    if (ROOT / '.git').exists():
        assert found.removesuffix('-dirty') == git(ROOT, 'rev-parse', 'HEAD')
    else:
        assert found is None
