"""Bad input through the command line: one line on stderr, the exit code, and no workdir."""

import fcntl
import os
import subprocess
import sys

import jax
import pytest
from absl.testing import flagsaver
from helpers import ROOT
from PIL import Image

from alexnet_jax import errors, main
from alexnet_jax.model.variants import EDITS, VARIANTS
from alexnet_jax.run import workdir
from alexnet_jax.training import loop

QUICKSTART = '--config=configs/quickstart.py'


@pytest.fixture
def command(monkeypatch, capsys):
    """command('--flag=value', ...) -> (exit code, stdout, stderr) of `main`, in this process."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(workdir, '_locks', [])

    def run(*args):
        monkeypatch.setattr(sys, 'argv', ['main', *args])
        with flagsaver.flagsaver(), pytest.raises(SystemExit) as exit_info:
            errors.run_command(main.main)
        return exit_info.value.code, *capsys.readouterr()

    yield run
    for lock in workdir._locks:
        lock.close()


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
        ('args', 'message'),
        [
            ([], 'pass --config=configs/NAME.py and --workdir=DIR'),
            ([QUICKSTART, '--workdir='], 'pass --config=configs/NAME.py and --workdir=DIR'),
            ([QUICKSTART, '--workdir'], 'Missing value for flag --workdir'),
            (['--config='], '--config needs a value: --config=configs/NAME.py'),
            (
                ['--config=configs/quickstrat.py'],
                'config file configs/quickstrat.py does not exist; did you mean '
                'configs/quickstart.py?',
            ),
            (
                ['--config', 'configs/quickstrat.py'],
                'config file configs/quickstrat.py does not exist; did you mean '
                'configs/quickstart.py?',
            ),
            (
                ['--config=nowhere/quickstart.py'],
                'config file nowhere/quickstart.py does not exist; found: no recipe',
            ),
            (
                ['--config=configs/quickstart.py:foo'],
                'config file configs/quickstart.py takes no argument; found '
                'configs/quickstart.py:foo',
            ),
            (
                [QUICKSTART, '--config.batch_siz=8'],
                'unknown config key batch_siz; did you mean batch_size?',
            ),
            (
                [QUICKSTART, '--config.data.nme', 'digits'],
                'unknown config key data.nme; did you mean data.name?',
            ),
            (
                [QUICKSTART, '--config.edits[0]=no_lrn'],
                'unknown config key edits[0]; did you mean edits?',
            ),
            ([QUICKSTART, '--config.batch_size=x'], 'batch_size=x; it must be of type int'),
            ([QUICKSTART, '--config.batch_size=64.5'], 'batch_size=64.5; it must be of type int'),
            (
                [QUICKSTART, '--config.optimizer.learning_rate=fast'],
                'optimizer.learning_rate=fast; it must be of type float',
            ),
            (
                [QUICKSTART, '--workdir=unused', '--config.batch_size'],
                'Missing value for flag --config.batch_size',
            ),
            (
                ['--config.batch_size=8', '--workdir=x'],
                '--config.batch_size needs --config=configs/NAME.py before it',
            ),
            (
                ['--config.batch_size=8', QUICKSTART],
                'Found --config.batch_size=8 in argv before a value for --config was specified',
            ),
            ([QUICKSTART, '--wrkdir=x'], 'unknown flag --wrkdir; did you mean --workdir?'),
            (
                [QUICKSTART, 'runs/x'],
                "unexpected argument 'runs/x'; flags are given as --flag=value",
            ),
            (
                [QUICKSTART, '--config.variant=alexnet'],
                f"variant: no 'alexnet'; allowed: {', '.join(VARIANTS)}",
            ),
            (
                [QUICKSTART, '--config.edits=no_lnr'],
                f"edits: no 'no_lnr'; allowed: {', '.join(EDITS)}",
            ),
            (
                [QUICKSTART, '--config.image_size=4'],  # conv1 has windows of 5
                'image_size=4: conv1 gets 4x4 and its output would be empty; take larger images',
            ),
            (
                # 12 -> 8 (conv1), 3 (pool1), 3 (conv2), 1 (pool2), 1 (conv3 to 5)
                [QUICKSTART, '--config.image_size=12'],
                'image_size=12: pool3 gets 1x1 and its output would be empty; take larger images',
            ),
            (
                [QUICKSTART, '--config.init_from=nowhere'],
                'init_from: nowhere holds no run: nowhere/config.json cannot be read',
            ),
            (
                ['--config=configs/folder.py'],
                'configs/folder.py needs the folder of your images: configs/folder.py:PATH',
            ),
            (
                ['--config=configs/folder.py:nowhere'],
                'data.train_split: the folder nowhere/train does not exist (beside it: none); '
                'images belong in nowhere/train/<class>/<image>.jpg',
            ),
        ],
        ids=lambda value: ' '.join(value) or 'nothing' if isinstance(value, list) else '',
    )
    def test_command_line(self, refused, args, message):
        assert refused(*args) == message

    @pytest.mark.parametrize(
        ('text', 'message'),
        [
            ('def get_config(:\n', ', line 1: SyntaxError: invalid syntax'),
            ('x = 1\n', ' has no get_config(); see configs/quickstart.py'),
            ('\nimport nothing_of_this_name\n', ", line 2: ModuleNotFoundError: No module named "
             "'nothing_of_this_name'"),
            ('def get_config():\n    return 1 / 0\n',
             ', line 2: ZeroDivisionError: division by zero'),
            ('def get_config(name):\n    pass\n', ' needs one'),
            ('def get_config():\n    pass\n', 'returns None; it must return a ConfigDict'),
            ('from alexnet_jax.config import default_config\n'
             'def get_config():\n    c = default_config()\n    c.batch_size = 64.5\n    return c\n',
             ", line 4: TypeError: Could not override field 'batch_size'"),
            ('from alexnet_jax.config import default_config\n'
             'def get_config():\n    c = default_config()\n    c.batch_siz = 64\n    return c\n',
             'unknown config key batch_siz; did you mean batch_size?'),
            ('from ml_collections import ConfigDict\n'
             'def get_config():\n    return ConfigDict({"seed": 0})\n',
             'the config lacks batch_size; start from config.default_config()'),
        ],
    )  # fmt: skip
    def test_config_file(self, refused, tmp_path, text, message):
        recipe = tmp_path / 'recipe.py'
        recipe.write_text(text)
        assert message in refused(f'--config={recipe}')

    def test_workdir_under_a_file(self, refused, tmp_path):
        (tmp_path / 'file').touch()
        folder = tmp_path / 'file' / 'a' / 'b'
        message = f'workdir {folder} cannot be made: {tmp_path / "file"} is a file'
        assert refused(QUICKSTART, f'--workdir={folder}') == message

    def test_workdir_of_another_config(self, refused, tmp_path):
        from alexnet_jax.cli import load_recipe

        folder = tmp_path / 'other'
        folder.mkdir()
        config = load_recipe(str(ROOT / 'configs/quickstart.py'))
        (folder / 'config.json').write_text(config.to_json())
        before = (folder / 'config.json').stat()
        args = [QUICKSTART, f'--workdir={folder}', '--config.seed=7', '--config.variant=course']
        assert refused(*args, '--config.image_size=67').startswith(
            f'{folder} holds a run with another config (image_size: 28 -> 67, seed: 0 -> 7, '
            f"variant: 'digits' -> 'course'); "
        )
        assert [p.name for p in folder.iterdir()] == ['config.json']
        assert (folder / 'config.json').stat() == before


def test_batch_size_that_does_not_divide(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, 'alexnet_jax.data.pipeline', None)  # told before TensorFlow
    message = 'batch_size=100 does not divide over 8 devices; try 96 or 104'
    assert refused(QUICKSTART, '--config.batch_size=100') == message


def test_no_devices(refused, monkeypatch):
    def count():
        raise RuntimeError("Unable to initialize backend 'cuda'")

    monkeypatch.setattr(jax, 'device_count', count)
    assert refused(QUICKSTART) == "JAX found no devices: Unable to initialize backend 'cuda'"


def test_coordinator_without_the_number_of_processes(refused):
    message = '--coordinator needs --num_processes and --process_id as well'
    assert refused(QUICKSTART, '--coordinator=localhost:1234') == message


def test_a_launcher_that_makes_no_sense(refused, monkeypatch):
    for name in ('SLURM_JOB_ID', 'SLURM_STEP_NODELIST', 'SLURM_PROCID', 'SLURM_LOCALID'):
        monkeypatch.setenv(name, '1')
    monkeypatch.setenv('SLURM_NTASKS', 'many')
    message = refused(QUICKSTART)
    assert message.startswith("SLURM_NTASKS is 'many' in the environment; it must be a number")


class TestData:
    """What needs the data to be looked at, and with it TensorFlow."""

    @pytest.mark.parametrize(
        ('args', 'parts'),
        [
            (
                ['--config.data.train_ops=decode|rezise(28)'],
                ["unknown op 'rezise(28)'", 'allowed: decode'],
            ),
            (['--config.data.eval_ops=decode|resize(30)'], ['30 x 30', 'image_size=28']),
            (['--config.data.name=digit'], ["unknown dataset data.name='digit'", 'digits, tfds:']),
            (['--config.data.name=tfds:cifar11'], ["'cifar11'", 'did you mean', 'cifar10']),
            (['--config.data.eval_split=tset'], ["no split 'tset'", 'allowed: train, test']),
            (
                ['--config.num_classes=9'],
                ['10 classes', 'network has 9', 'set --config.num_classes=10'],
            ),
            (
                ['--config.data.name=folder:{tmp}/nowhere'],
                ['{tmp}/nowhere does not exist'],
            ),
        ],
    )
    def test_config(self, refused, tmp_path, args, parts):
        message = refused(QUICKSTART, *(arg.format(tmp=tmp_path) for arg in args))
        for part in parts:
            assert part.format(tmp=tmp_path) in message

    def test_imagenet_without_its_archives(self, refused, tmp_path):
        message = refused('--config=configs/imagenet.py', f'--config.data.data_dir={tmp_path}')
        for part in (
            f'{tmp_path}/downloads/manual',
            'ILSVRC2012_img_train.tar (missing)',
            'ILSVRC2012_img_val.tar (missing)',
            'Then type: ',
        ):
            assert part in message

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
        assert message.startswith(f'{tmp_path}/images/train has no class folders; ')

    def test_recipe_of_an_empty_folder(self, refused, tmp_path):
        self.folder(tmp_path)
        message = refused(f'--config=configs/folder.py:{tmp_path}/images')
        assert f'{tmp_path}/images/train' in message

    def test_folder_of_one_class(self, refused, tmp_path):
        message = refused(*self.folder(tmp_path, 'train/cat', 'validation/cat'))
        assert 'has only one class folder, cat; add another' in message

    def test_image_that_does_not_decode(self, refused, tmp_path):
        args = self.folder(tmp_path, 'train/cat', 'train/dog', 'validation/cat')
        (tmp_path / 'images/validation/cat/0.jpg').write_text('no image')
        assert f'{tmp_path}/images/validation/cat/0.jpg' in refused(*args, exit_code=1)


def test_workdir_that_cannot_be_made(refused):
    # Root passes every check of permissions, so this one fails when the folder is made.
    message = refused(QUICKSTART, '--workdir=/proc/alexnet/x')
    assert message.startswith('workdir /proc/alexnet/x cannot be ')


def test_workdir_in_use(refused, tmp_path):
    folder = tmp_path / 'used'
    folder.mkdir()
    with open(folder / '.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        message = refused(QUICKSTART, f'--workdir={folder}')
    assert message == (
        f'workdir {folder} is in use by another run; wait for it or take another --workdir'
    )
    assert [p.name for p in folder.iterdir()] == ['.lock']


def test_checks_passed(command, monkeypatch, tmp_path):
    """What training is called with, and what it may rely on."""
    calls = []
    monkeypatch.setattr(loop, 'train_and_evaluate', lambda *args: calls.append(args))
    folder = tmp_path / 'a' / 'b'
    args = [QUICKSTART, f'--workdir={folder}', '--config.batch_size=8', '--config.edits=no_lrn']
    assert command(*args) == (0, '', '')
    ((config, used, data),) = calls
    assert (config.batch_size, config.edits) == (8, ('no_lrn',))
    assert used == str(folder)
    assert (data.train_size, data.eval_size) == (1437, 360)
    assert workdir.read_config(used).to_dict() == config.to_dict()
    assert workdir.read_classes(used) == list('0123456789')


# The command itself


def run(*args: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, '-m', 'alexnet_jax.main', *args],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )


def test_help():
    done = run('--help')
    assert (done.returncode, done.stderr) == (0, '')
    for text in ('Train AlexNet', '--config ', '--workdir ', '--coordinator ', 'batch_size = 128'):
        assert text in done.stdout


def test_bad_input_prints_one_line(tmp_path):
    done = run('--config=configs/quickstart.py', '--config.batch_size=100',
               f'--workdir={tmp_path}/x')  # fmt: skip
    assert (done.returncode, done.stdout) == (2, '')
    message = 'error: batch_size=100 does not divide over 8 devices; try 96 or 104\n'
    assert done.stderr == message
    assert not (tmp_path / 'x').exists()


def test_bad_data_prints_one_line(tmp_path):
    done = run(QUICKSTART, '--config.num_classes=5', f'--workdir={tmp_path}/x')
    assert (done.returncode, done.stdout) == (2, '')
    message = 'error: digits has 10 classes, but the network has 5; set --config.num_classes=10\n'
    assert done.stderr == message
    assert not (tmp_path / 'x').exists()


def test_one_step(command, tmp_path):
    """Trains, and says that it is finished when it is run again."""
    folder = tmp_path / 'x'
    # 64 / 1437 of an epoch: one step
    args = [QUICKSTART, f'--workdir={folder}', '--config.epochs=0.045']
    first = run(*args, XLA_FLAGS='--xla_force_host_platform_device_count=1')
    assert (first.returncode, first.stderr) == (0, '')
    lines = first.stdout.splitlines()
    assert [line.split('  ')[0] for line in lines[:3]] == ['step 1/1'] * 2 + ['finished: 1 steps']
    code, out, err = command(*args)
    assert (code, err) == (0, '')
    assert out.splitlines()[1:] == lines[2:]
    names = {p.name for p in folder.iterdir() if not p.name.startswith(('events', '.'))}
    assert names == {
        'config.json', 'classes.json', 'environment.json', 'statistics.npz', 'metrics.jsonl',
        'checkpoints',
    }  # fmt: skip
