"""Every command on the pages: its module, flags, recipe and overrides exist, and parse."""

import ast
import re
import sys
from pathlib import Path
from unittest import mock

import pytest
from absl import flags
from helpers import ROOT
from ml_collections import config_flags
from pages import PAGES, blocks, command_lines, name_of

from alexnet_jax.cli import load_recipe
from alexnet_jax.config import validate

# FLAGS, RUN, IMAGE..., [RUN...], --workdir=...
PLACEHOLDER = re.compile(r'[A-Z]+(\.\.\.)?|\[.*|.*\.\.\.')
# Its commands are of a package that it has changed: test_extending.py runs them.
CHECKED = [page for page in PAGES if page.name != 'extending.md']
SCRIPTS_OF_MAIN = ('local.sh', 'tpu.sh', 'slurm.sbatch')  # which pass their flags on to main
ARGUMENTS = {
    'benchmark': {'step', 'data', 'plan', 'collectives'},
    **dict.fromkeys(('convert', 'experiments', 'features', 'predict', 'report', 'tour')),
}


def source_of(module: str) -> Path:
    """alexnet_jax.main -> .../main.py; of a package such as alexnet_jax.sweep, its __main__.py."""
    path = ROOT / module.replace('.', '/')
    return path / '__main__.py' if path.is_dir() else path.with_suffix('.py')


def flags_of(module: str) -> set[str]:
    """Names of the flags that a command defines, read from its source."""
    found = set()
    for node in ast.walk(ast.parse(source_of(module).read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr.startswith('DEFINE_'):
                found.add(node.args[0].value)
            elif node.func.attr == 'define_flags':  # of cli
                given = {keyword.arg for keyword in node.keywords}
                found |= {'config'} if 'require_workdir' in given else {'config', 'workdir'}
                found |= given & {'scratch'}
            elif node.func.attr == 'define_net_flag':
                found |= {'workdir'}
    return found


def parse(module: str, words: list[str], folder: str) -> list[str]:
    """Parse a command's words as the command would; returns its arguments.

    `folder` stands for PATH, the folder of images that a recipe wants, and for a run to fine-tune.
    """
    values, known = flags.FlagValues(), flags_of(module)
    if 'config' in known:
        config_flags.DEFINE_config_file('config', None, flag_values=values)
    for name in known - {'config'}:
        flags.DEFINE_string(name, None, '', flag_values=values)
    # A flag without a value is a switch.
    switches = [f'{word}=true' if re.fullmatch(r'--\w+', word) else word for word in words]
    command = [word.replace('folder.py:PATH', f'folder.py:{folder}') for word in switches]
    command = [re.sub(r'finetune\.py:[\w/]+,', f'finetune.py:{folder},', word) for word in command]
    command = [re.sub(r'(finetune\.py:.*),PATH', rf'\1,{folder}', word) for word in command]
    recorded = re.compile(r'runs/[\w/]+/config.json')  # of a run, which may have been of any recipe
    command = [recorded.sub('configs/quickstart.py', word) for word in command]
    command = [word.replace('configs/NAME.py', 'configs/quickstart.py') for word in command]
    argv = [module, *(word for word in command if not PLACEHOLDER.fullmatch(word))]
    with mock.patch.object(sys, 'argv', argv):  # ml_collections looks for overrides there
        _, *arguments = values(argv)
    if 'config' in known and values.config is not None:
        validate(values.config)
    return arguments


@pytest.fixture
def images(tmp_path, monkeypatch):
    """A folder of three classes, and of a run; recipes are found from the root."""
    (tmp_path / 'config.json').write_text(load_recipe(f'{ROOT}/configs/quickstart.py').to_json())
    for name in ('ant', 'bee', 'cat'):
        (tmp_path / 'train' / name).mkdir(parents=True)
        for number in range(4):
            (tmp_path / 'train' / name / f'{number}.jpg').touch()
    monkeypatch.chdir(ROOT)
    return str(tmp_path)


def check(words: list[str], images: str) -> None:
    program, *rest = words
    if program == 'python':
        _, module, *rest = rest
        assert source_of(module).is_file(), f'no command {module}'
        name = module.rpartition('.')[2]
        arguments = parse(module, rest, images)
        if (allowed := ARGUMENTS.get(name, set())) is not None:
            assert set(arguments) <= allowed, f'{name}: unexpected {arguments}'
        return
    script = next(word for word in rest if word.startswith('launch/'))
    assert (ROOT / script).is_file(), f'no script {script}'
    arguments = rest[rest.index(script) + 1 :]
    if Path(script).name in SCRIPTS_OF_MAIN and arguments != ['stop']:
        assert parse('alexnet_jax.main', arguments, images) == []
    elif script == 'launch/test.sh':
        known = (ROOT / script).read_text() + (ROOT / 'tests/conftest.py').read_text()
        assert [word for word in arguments if word.startswith('--') and word not in known] == []


@pytest.mark.parametrize('page', CHECKED, ids=name_of)
def test_commands(page, images):
    for words in command_lines(page.read_text()):
        try:
            check(words, images)
        except Exception as error:
            pytest.fail(f'{name_of(page)}: {" ".join(words)}: {error!r}')


@pytest.mark.parametrize('page', PAGES, ids=name_of)
def test_no_two_commands_of_a_block_write_one_file(page):
    """The second would be refused: what exists is not overwritten."""
    for language, text in blocks(page.read_text()):
        lines = command_lines(f'```{language}\n{text}```\n')
        words = [word for line in lines for word in line]
        outputs = [word for word in words if word.startswith('--output=')]
        assert len(outputs) == len(set(outputs))


@pytest.mark.parametrize(
    ('command', 'reason'),
    [
        ('python -m alexnet_jax.main --config=configs/quikstart.py', 'quikstart'),
        ('python -m alexnet_jax.main --config=configs/cifar10.py --config.batch=64', 'batch'),
        ('python -m alexnet_jax.main --config=configs/cifar10.py --config.epochs=x', 'epochs'),
        ('python -m alexnet_jax.main --config=configs/cifar10.py --config.edits=(0,)', 'edits'),
        ('python -m alexnet_jax.main --workdirs=x', 'workdirs'),
        ('python -m alexnet_jax.mian --workdir=x', 'alexnet_jax.mian'),
        ('python -m alexnet_jax.main stray', 'stray'),
        ('bash launch/locl.sh', 'launch/locl.sh'),
        ('bash launch/local.sh --workdirs=x', 'workdirs'),
        ('bash launch/test.sh --fats', '--fats'),
    ],
)
def test_a_command_that_is_wrong_is_found(command, reason, images):
    with pytest.raises(Exception, match=reason):
        check(command.split(), images)


def test_commands_are_found_on_a_page():
    page = (
        'Type `python -m alexnet_jax`, or\n```\n$ srun python -m alexnet_jax.main --a=1 \\\n'
        "    --b='x|y' | tee log   # note\nbash launch/local.sh\n```\n"
        '```python\npython -m alexnet_jax.not_this\n```\n'
    )
    assert list(command_lines(page)) == [
        ['python', '-m', 'alexnet_jax.main', '--a=1', '--b=x|y'],
        ['bash', 'launch/local.sh'],
        ['python', '-m', 'alexnet_jax'],
    ]
