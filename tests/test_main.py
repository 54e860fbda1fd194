"""Bad input to `main`: one line on stderr, the exit code, and no workdir."""

import fcntl
import functools
import os
import sys

import jax
import pytest
from helpers import ROOT, assert_has
from PIL import Image

from alexnet_jax import main
from alexnet_jax.cli import load_recipe
from alexnet_jax.cloud.store import Store
from alexnet_jax.config import default_config
from alexnet_jax.evaluation import ensemble
from alexnet_jax.model.variants import EDITS, VARIANTS
from alexnet_jax.run import workdir
from alexnet_jax.saved_config import read_config
from alexnet_jax.training import loop

QUICKSTART = '--config=configs/quickstart.py'
# A recipe that is the default but for a line.
DEFAULT = (
    'from alexnet_jax.config import default_config\n'
    'def get_config():\n    c = default_config()\n    {}\n    return c\n'
)


@pytest.fixture
def command(monkeypatch, call):
    """command('--flag=value', ...) -> (exit code, stdout, stderr) of `main`, in this process."""
    monkeypatch.chdir(ROOT)
    return functools.partial(call, main)


@pytest.fixture
def refused(command, monkeypatch, tmp_path):
    """refused('--flag=value', ...) -> the message, after checks that hold for all bad input."""

    def train_anyway(*_):
        raise AssertionError('it should not train')

    monkeypatch.setattr(loop, 'train_and_evaluate', train_anyway)

    def run(*args, exit_code=2):
        folder = tmp_path / 'workdir'
        if not any(arg.startswith('--workdir') for arg in args):
            args = (*args, f'--workdir={folder}')
        code, out, err = command(*args)
        assert (code, out) == (exit_code, ''), err
        assert err.startswith('error: ')
        assert err.endswith('\n')
        assert err.count('\n') == 1
        assert not folder.exists()
        return err.removeprefix('error: ').removesuffix('\n')

    return run


@pytest.fixture
def early(monkeypatch):
    """Fails the test if a check imports TensorFlow or counts the devices."""

    def count():
        raise AssertionError('it should not touch the devices')

    monkeypatch.setitem(sys.modules, 'alexnet_jax.data.pipeline', None)
    monkeypatch.setattr(jax, 'device_count', count)


@pytest.mark.usefixtures('early')
class TestBeforeAnyWork:
    @pytest.mark.parametrize(
        ('args', 'parts'),
        [
            ([], ['--config=', '--workdir=']),
            ([QUICKSTART, '--workdir='], ['--config=', '--workdir=']),
            ([QUICKSTART, '--workdir'], ['--workdir']),
            (['--config='], ['--config']),
            (
                ['--config=configs/quickstrat.py'],
                ['configs/quickstrat.py', 'did you mean', 'quickstart'],
            ),
            (
                ['--config', 'configs/quickstrat.py'],
                ['configs/quickstrat.py', 'did you mean', 'quickstart'],
            ),
            (['--config=nowhere/quickstart.py'], ['nowhere/quickstart.py']),
            (['--config=gs://bucket/recipe.py'], ['gs://bucket/recipe.py', 'is a URL']),
            ([QUICKSTART, '--workdir=hdfs://host/run'], ['hdfs://host/run', 'gs://', 's3://']),
            ([QUICKSTART, '--scratch=/tmp/x'], ['--scratch=/tmp/x', 'local']),
            (
                [QUICKSTART, '--workdir=gs://b/x', '--scratch=gs://b/y'],
                ['--scratch=gs://b/y', 'folder on this machine'],
            ),
            (['--config=configs/quickstart.py:foo'], ['quickstart', 'argument', 'foo']),
            ([QUICKSTART, '--config.batch_siz=8'], ['batch_siz;', 'did you mean batch_size?']),
            (
                [QUICKSTART, '--config.data.nme', 'digits'],
                ['data.nme;', 'did you mean data.name?'],
            ),
            ([QUICKSTART, '--config.edits[0]=no_lrn'], ['edits[0];', 'did you mean edits?']),
            ([QUICKSTART, '--config.batch_size=x'], ['batch_size=x', 'int']),
            ([QUICKSTART, '--config.batch_size=64.5'], ['batch_size=64.5', 'int']),
            (
                [QUICKSTART, '--config.optimizer.learning_rate=fast'],
                ['optimizer.learning_rate=fast', 'float'],
            ),
            (
                [QUICKSTART, '--workdir=unused', '--config.batch_size'],
                ['--config.batch_size'],
            ),
            (
                ['--config.batch_size=8', '--workdir=x'],
                ['--config.batch_size', '--config='],
            ),
            (['--config.batch_size=8', QUICKSTART], ['--config.batch_size=8', '--config']),
            ([QUICKSTART, '--wrkdir=x'], ['--wrkdir', 'did you mean --workdir?']),
            ([QUICKSTART, 'runs/x'], ["'runs/x'", '--flag=value']),
            ([QUICKSTART, '--config.variant=alexnet'], ["'alexnet'", ', '.join(VARIANTS)]),
            ([QUICKSTART, '--config.edits=no_lnr'], ["'no_lnr'", ', '.join(EDITS)]),
            (  # conv1 has windows of 5
                [QUICKSTART, '--config.image_size=4'],
                ['image_size=4', 'conv1', '4x4', 'larger images'],
            ),
            (  # 12 -> 8 (conv1), 3 (pool1), 3 (conv2), 1 (pool2), 1 (conv3 to 5)
                [QUICKSTART, '--config.image_size=12'],
                ['image_size=12', 'pool3', '1x1', 'larger images'],
            ),
            (
                [QUICKSTART, '--config.init_from=nowhere'],
                ['init_from', 'nowhere/config.json'],
            ),
            (
                ['--mode=eval', QUICKSTART, '--workdir=x', '--config.accum_steps=0'],
                ['accum_steps=0', 'above 0'],
            ),
            (['--config=configs/folder.py'], ['folder.py:PATH']),
            ([QUICKSTART, '--log_to=wndb'], ['--log_to=wndb', 'wandb or mlflow']),
            (['--mode=eval', '--workdir=x', '--log_to=wandb'], ['--log_to=wandb', 'for training']),
            (
                ['--config=configs/folder.py:nowhere'],
                ['nowhere', 'does not exist'],
            ),
        ],
        ids=lambda value: ' '.join(value) or 'nothing',
    )
    def test_command_line(self, refused, args, parts):
        assert_has(refused(*args), *parts)

    @pytest.mark.parametrize(
        ('text', 'parts'),
        [
            ('def get_config(:\n', ['line 1', 'SyntaxError']),
            ('x = 1\n', ['get_config()', 'quickstart']),
            ('\nimport nothing_of_this_name\n', ['line 2', "'nothing_of_this_name'"]),
            ('def get_config():\n    return 1 / 0\n', ['line 2', 'division by zero']),
            ('def get_config(name):\n    pass\n', ['recipe.py']),
            ('def get_config():\n    pass\n', ['None', 'ConfigDict']),
            (DEFAULT.format('c.batch_size = 64.5'), ['line 4', "'batch_size'"]),
            (DEFAULT.format('c.batch_siz = 64'), ['batch_siz;', 'did you mean batch_size?']),
            (
                'from ml_collections import ConfigDict\n'
                'def get_config():\n    return ConfigDict({"seed": 0})\n',
                ['config lacks', 'default_config()'],
            ),
        ],
    )
    def test_config_file(self, refused, tmp_path, text, parts):
        recipe = tmp_path / 'recipe.py'
        recipe.write_text(text)
        assert_has(refused(f'--config={recipe}'), *parts)
        assert_has(refused('--mode=eval', f'--config={recipe}'), *parts)

    def test_workdir_under_a_file(self, refused, tmp_path):
        (tmp_path / 'file').touch()
        folder = tmp_path / 'file' / 'a' / 'b'
        message = refused(QUICKSTART, f'--workdir={folder}')
        assert_has(message, str(folder), f'{tmp_path / "file"} is a file')

    def test_workdir_of_another_config(self, refused, tmp_path):
        folder = tmp_path / 'other'
        (folder / 'checkpoints/5').mkdir(parents=True)
        config = load_recipe(str(ROOT / 'configs/quickstart.py'))
        (folder / 'config.json').write_text(config.to_json())
        before = (folder / 'config.json').stat().st_mtime_ns
        args = [QUICKSTART, f'--workdir={folder}', '--config.seed=7', '--config.variant=course']
        message = refused(*args, '--config.image_size=67')
        changes = "(image_size: 28 -> 67, seed: 0 -> 7, variant: 'digits' -> 'course')"
        assert_has(message, str(folder), changes, '--workdir')
        assert sorted(p.name for p in folder.iterdir()) == ['checkpoints', 'config.json']
        assert (folder / 'config.json').stat().st_mtime_ns == before


def test_a_recorded_config_in_a_folder_with_a_colon(tmp_path):
    config = load_recipe(str(ROOT / 'configs/quickstart.py'))
    folder = tmp_path / '2026-01-31T09:30'
    folder.mkdir()
    (folder / 'config.json').write_text(config.to_json())
    assert load_recipe(f'{folder}/config.json').to_dict() == config.to_dict()


def test_batch_size_that_does_not_divide(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, 'alexnet_jax.data.pipeline', None)  # told before TensorFlow
    message = refused(QUICKSTART, '--config.batch_size=100')
    assert_has(message, 'batch_size=100', '8 devices', '96 or 104')


def test_no_devices(refused, monkeypatch):
    def count():
        raise RuntimeError("Unable to initialize backend 'cuda'")

    monkeypatch.setattr(jax, 'device_count', count)
    assert_has(refused(QUICKSTART), 'no devices', "Unable to initialize backend 'cuda'")


def test_coordinator_without_the_number_of_processes(refused):
    message = refused(QUICKSTART, '--coordinator_address=localhost:1234')
    assert_has(message, '--coordinator_address', '--num_processes', '--process_id')


def test_a_launcher_that_makes_no_sense(refused, monkeypatch):
    for name in ('SLURM_JOB_ID', 'SLURM_STEP_NODELIST', 'SLURM_PROCID', 'SLURM_LOCALID'):
        monkeypatch.setenv(name, '1')
    monkeypatch.setenv('SLURM_NTASKS', 'many')
    assert_has(refused(QUICKSTART), "SLURM_NTASKS is 'many'", 'a number')


class TestData:
    """What needs the data to be looked at, and with it TensorFlow."""

    @pytest.mark.parametrize(
        ('args', 'parts'),
        [
            (
                ['--config.data.train_ops=decode|rezise(28)'],
                ["'rezise(28)'", 'decode'],
            ),
            (['--config.data.eval_ops=decode|resize(30)'], ['30 x 30', 'image_size=28']),
            (['--config.data.name=digit'], ["'digit'", 'digits', 'tfds:']),
            (['--config.data.name=tfds:cifar11'], ["'cifar11'", 'did you mean', 'cifar10']),
            (['--config.data.eval_split=tset'], ["'tset'", 'train, test']),
            (
                ['--config.num_classes=9'],
                ['10 classes', '9', '--config.num_classes=10'],
            ),
            (
                ['--config.data.name=folder:{tmp}/nowhere'],
                ['{tmp}/nowhere'],
            ),
        ],
    )
    def test_config(self, refused, tmp_path, args, parts):
        message = refused(QUICKSTART, *(arg.format(tmp=tmp_path) for arg in args))
        assert_has(message, *(part.format(tmp=tmp_path) for part in parts))

    def test_imagenet_without_its_archives(self, refused, tmp_path):
        message = refused('--config=configs/imagenet.py', f'--config.data.data_dir={tmp_path}')
        archives = ('ILSVRC2012_img_train.tar (missing)', 'ILSVRC2012_img_val.tar (missing)')
        assert_has(message, f'{tmp_path}/downloads/manual', *archives)

    def folder(self, tmp_path, *classes):
        """A folder of one 40 x 30 image for each 'split/class'."""
        for name in ('train/', 'validation/', *classes):
            (tmp_path / 'images' / name).mkdir(parents=True, exist_ok=True)
            if not name.endswith('/'):
                Image.new('RGB', (40, 30)).save(tmp_path / 'images' / name / '1.png')
        ops = 'decode|resize(28)'
        return [
            QUICKSTART,
            f'--config.data.name=folder:{tmp_path}/images',
            '--config.data.eval_split=validation',
            f'--config.data.train_ops={ops}',
            f'--config.data.eval_ops={ops}',
        ]

    def test_empty_folder(self, refused, tmp_path):
        message = refused(*self.folder(tmp_path))
        assert_has(message, f'{tmp_path}/images/train', 'class folders')

    def test_recipe_of_an_empty_folder(self, refused, tmp_path):
        self.folder(tmp_path)
        message = refused(f'--config=configs/folder.py:{tmp_path}/images')
        assert f'{tmp_path}/images/train' in message

    def test_folder_of_one_class(self, refused, tmp_path):
        message = refused(*self.folder(tmp_path, 'train/cat', 'validation/cat'))
        assert_has(message, f'{tmp_path}/images/train', 'cat', 'one class', 'add another')

    def test_image_that_does_not_decode(self, refused, tmp_path):
        classes = ('train/cat', 'train/dog', 'validation/cat', 'validation/dog')
        args = self.folder(tmp_path, *classes)
        (tmp_path / 'images/validation/cat/0.jpg').write_text('no image')
        assert f'{tmp_path}/images/validation/cat/0.jpg' in refused(*args, exit_code=1)


def test_workdir_that_cannot_be_made(refused):
    # Root passes every check of permissions, so this one fails when the folder is made.
    assert '/proc/alexnet/x' in refused(QUICKSTART, '--workdir=/proc/alexnet/x')


def test_workdir_in_use(refused, tmp_path):
    folder = tmp_path / 'used'
    folder.mkdir()
    with open(folder / '.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        message = refused(QUICKSTART, f'--workdir={folder}')
    assert_has(message, str(folder), 'in use', '--workdir')
    assert [p.name for p in folder.iterdir()] == ['.lock']


@pytest.mark.usefixtures('own_cache')
def test_scores_of_a_run_in_a_bucket_go_there(monkeypatch, url):
    """Also with a name that is new, since the names there are known."""

    def score(config, folder, data, members):
        names = os.listdir(f'{folder}/eval') if os.path.exists(f'{folder}/eval') else []
        os.makedirs(f'{folder}/eval', exist_ok=True)
        with open(f'{folder}/eval/{len(names)}.json', 'w') as file:
            file.write('{}')

    monkeypatch.setattr(ensemble, 'score', score)
    for count in (1, 2):
        main._score(default_config(), url, None, [])
        assert list(Store(url).list()) == [f'eval/{i}.json' for i in range(count)]


def test_checks_passed(command, monkeypatch, tmp_path):
    """What training is called with, and what it may rely on."""
    calls = []
    monkeypatch.setattr(loop, 'train_and_evaluate', lambda *args: calls.append(args))
    folder = tmp_path / 'a' / 'b'
    args = [QUICKSTART, f'--workdir={folder}', '--config.batch_size=8', '--config.edits=no_lrn']
    assert command(*args) == (0, '', '')
    ((config, used, data, _),) = calls
    assert (config.batch_size, config.edits) == (8, ('no_lrn',))
    assert used == str(folder)
    assert (data.train_size, data.eval_size) == (1437, 360)
    assert read_config(used).to_dict() == config.to_dict()
    assert workdir.read_classes(used) == list('0123456789')
