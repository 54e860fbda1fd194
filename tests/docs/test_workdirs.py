"""The training commands on the pages, in recipes and in launch/ can be typed one after another."""

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml
from helpers import ROOT
from pages import PAGES, command_lines, name_of

from alexnet_jax.cli import load_recipe
from alexnet_jax.config import FREE_KEYS

RECIPES = sorted((ROOT / 'configs').rglob('*.py'))
SCRIPTS = sorted((ROOT / 'launch').iterdir())
STARTS_TRAINING = {'alexnet_jax.main', 'alexnet_jax.sweep', 'local.sh', 'tpu.sh', 'slurm.sbatch'}

# Workdirs that commands with different configs may share.
SHARED = {
    'runs/photos': 'on a GPU or on a CPU: the page says that it is one or the other',
    'runs/tuned': 'in the docstring of finetune.py, RUN stands for any run',
}


class Command(NamedTuple):
    """A command that trains: where it is written, its recipe, workdir and other flags."""

    place: str
    recipe: str
    workdir: str
    others: frozenset[str]

    @property
    def key(self) -> tuple[str, frozenset[str]]:
        """What has to be the same in a workdir; of a prepared set, the folder may differ."""
        free = tuple(f'--config.{key}=' for key in FREE_KEYS)
        kept = {flag for flag in self.others if not flag.startswith(free)}
        return self.recipe, frozenset(re.sub(r'=prepared:.*', '=prepared:', flag) for flag in kept)


def parsed(words: Sequence[str], place: str) -> Command | None:
    """The command of these words; None if it does not start training, or not with a recipe."""
    programs = {Path(word).name for word in words if not word.startswith('--')}
    values = dict(word.removeprefix('--').split('=', 1) for word in words if '=' in word)
    recipe = values.get('config', '').removeprefix('configs/')
    if 'local.sh' in programs:  # as the script picks them
        recipe = recipe or 'quickstart.py'
        values.setdefault('workdir', f'runs/{recipe.removesuffix(".py")}')
    if not programs & STARTS_TRAINING or values.get('mode') == 'eval':
        return None
    if not re.match(r'\w+\.py', recipe) or 'workdir' not in values:  # a config.json, or `...`
        return None
    others = {word for word in words if re.match(r'--(config\.|sweep=)', word)}
    return Command(place, recipe, values['workdir'], frozenset(others))


def lines_of(path: Path) -> Iterator[list[str]]:
    """The words of the commands in a file: on a page, in a docstring, or in a script's comments."""
    text = path.read_text()
    if path.suffix == '.md':
        yield from command_lines(text)
        return
    if path.suffix == '.py':
        typed = text.split('"""')[1]
    else:
        typed = '\n'.join(re.findall(r'^#[ ]{3,}(.*)$', text, re.MULTILINE))
    yield from command_lines(f'```\n{typed}\n```\n')
    if path.name == 'k8s-jobset.yaml':
        job_set = next(yaml.safe_load_all(text))
        pod = job_set['spec']['replicatedJobs'][0]['template']['spec']['template']['spec']
        yield ['alexnet_jax.main', *pod['containers'][0]['args']]
    elif path.name == 'sky.yaml':
        yield ['alexnet_jax.main', *shlex.split(yaml.safe_load(text)['envs']['FLAGS'])]


COMMANDS = [
    command
    for path in (*PAGES, *RECIPES, *SCRIPTS)
    for words in lines_of(path)
    if (command := parsed(words, name_of(path)))
]


def test_commands_are_found_everywhere():
    places = {command.place for command in COMMANDS}
    assert places >= {
        'README.md', 'docs/data.md', 'configs/finetune.py', 'launch/local.sh',
        'launch/slurm.sbatch', 'launch/tpu.sh', 'launch/k8s-jobset.yaml', 'launch/sky.yaml',
    }  # fmt: skip


def test_what_tells_commands_apart():
    typed = 'python -m alexnet_jax.main --config=configs/lars.py --workdir=w --config.epochs=2'
    same = [f'{typed} --config.log_every=7', f'{typed} --log_to=wandb']
    other = [f'{typed} --config.seed=1', typed.replace('=2', '=3'), typed.replace('lars', 'bvlc')]
    keys = [parsed(text.split(), '').key for text in (typed, *same, *other)]
    assert keys[0] == ('lars.py', {'--config.epochs=2'})
    assert [key == keys[0] for key in keys] == [True] * 3 + [False] * 3
    assert parsed(['bash', 'launch/local.sh', '--config=configs/a.py'], '').workdir == 'runs/a'
    for words in (['alexnet_jax.main', '--mode=eval'], ['alexnet_jax.doctor', '--config=a.py']):
        assert parsed(['python', '-m', *words, '--workdir=w'], '') is None


def test_a_workdir_belongs_to_one_config():
    """Whoever types one command after the other is not refused."""
    found: dict[str, dict[object, str]] = {}
    for command in COMMANDS:
        found.setdefault(command.workdir, {}).setdefault(command.key, command.place)
    shared = {name: list(keys.values()) for name, keys in found.items() if len(keys) > 1}
    assert {name: places for name, places in shared.items() if name not in SHARED} == {}
    assert shared.keys() == SHARED.keys()


def test_training_on_imagenet_names_its_data(monkeypatch):
    """Where TFDS has not prepared the originals, the recipes' default ends with an error."""
    monkeypatch.chdir(ROOT)
    recipes = {command.recipe for command in COMMANDS}
    known = {name for name in recipes if not re.search(r':.*[/A-Z]|^NAME', name)}  # PATH, RUN
    on_imagenet = {
        name for name in known
        if load_recipe(f'configs/{name}').data.name.startswith('tfds:imagenet2012')
    }  # fmt: skip
    assert {'imagenet.py', 'imagenet_bf16.py', 'ablation.py:no_lrn'} <= on_imagenet
    without = [
        command for command in COMMANDS
        if command.recipe in on_imagenet
        and not any(re.match(r'--config\.data\.(name|data_dir)=', f) for f in command.others)
    ]  # fmt: skip
    assert without == []
