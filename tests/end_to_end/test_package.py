"""The package, built and installed into a fresh environment, used from another folder."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from helpers import ROOT, assert_has

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command, which must succeed; returns its standard output."""
    environment = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope='module')
def source(tmp_path_factory) -> Path:
    """A copy of what is built from: building leaves folders in it."""
    folder = tmp_path_factory.mktemp('package') / 'source'
    for name in ('alexnet_jax', 'configs'):
        ignored = shutil.ignore_patterns('__pycache__')
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignored)
    for name in ('pyproject.toml', 'requirements.txt', 'README.md', 'LICENSE'):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope='module', params=['wheel', 'editable'])
def python(request, source) -> Path:
    """The Python of an environment with the package; what it needs is that of this Python."""
    environment = source.with_name(request.param)
    run(sys.executable, '-m', 'venv', '--without-pip', environment, cwd=source)
    (site_packages,) = environment.glob('lib/python*/site-packages')
    (site_packages / 'shared.pth').write_text(sysconfig.get_path('purelib'))
    python = environment / 'bin' / 'python'
    offline = ('--quiet', '--no-deps', '--no-build-isolation', '--disable-pip-version-check')
    pip = (sys.executable, '-m', 'pip', '--python', python)
    if request.param == 'editable':
        run(*pip, 'install', *offline, '--editable', source, cwd=source)
    else:
        run(*pip, 'wheel', *offline, '--wheel-dir', environment, source, cwd=source)
        (wheel,) = environment.glob('*.whl')
        run(*pip, 'install', *offline, wheel, cwd=source)
    return python


def files(folder: Path) -> set[Path]:
    found = {path.relative_to(folder) for path in folder.rglob('*') if path.is_file()}
    return {path for path in found if path.suffix != '.pyc'}


def test_every_file_is_installed(python, source, tmp_path):
    script = (
        'import alexnet_jax, alexnet_jax.configs as c\n'
        "print(alexnet_jax.__file__, *c.__path__, sep='\\n')"
    )
    package, configs = map(Path, run(python, '-c', script, cwd=tmp_path).splitlines())
    home = source if python.parents[1].name == 'editable' else python.parents[1]
    assert package.is_relative_to(home)
    assert files(configs) == files(ROOT / 'configs')
    assert files(package.parent) >= files(ROOT / 'alexnet_jax')


def test_a_recipe_is_used_from_another_folder(python, tmp_path):
    recipe = '--config=quickstart'
    assert '165,514 parameters' in run(python, '-m', 'alexnet_jax.summary', recipe, cwd=tmp_path)
    assert_has(run(python, '-m', 'alexnet_jax.main', recipe, '--help', cwd=tmp_path), '--workdir')
