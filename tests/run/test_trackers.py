"""Trackers get every record once, whatever resumes or fails; W&B and MLflow without a network."""

import importlib
import json
import struct

import ml_collections
import pytest
from helpers import assert_has

from alexnet_jax.errors import BadInput, Diverged, Interrupted
from alexnet_jax.run import trackers
from alexnet_jax.run.logger import Log
from alexnet_jax.run.trackers import Trackers

TRAIN = {'loss': 2.5, 'top1': 0.125, 'top5': 0.5, 'examples': 320, 'bad_images': 0}
EVAL = TRAIN | {'images_per_second': 80.0, 'recall': [0.5, None]}
CONFIG = ml_collections.ConfigDict({'seed': 7, 'data': {'name': 'digits'}, 'edits': ('no_lrn',)})


class Fake:
    """A service that keeps its records in memory, and breaks when it is told to."""

    def __init__(self):
        self.runs: list[dict] = []
        self.row, self.keeps = 0, True
        self.broken: str | None = None  # 'open', 'log' or 'finish'

    def __call__(self, identity, title, config):
        self.fail('open')
        if identity is None:
            identity = str(len(self.runs))
            self.runs.append({'title': title, 'config': config.to_dict(), 'rows': [], 'ends': []})
        self.id, self.place, self._run = identity, f'fake run {identity}', self.runs[int(identity)]
        return self

    def log(self, row, step, values):
        self.fail('log')
        self._run['rows'].append((row, step, values))

    def finish(self, exit_code):
        self.fail('finish')
        self._run['ends'].append(exit_code)

    def fail(self, what):
        if self.broken == what:
            raise ConnectionError(f'no route\nto the {what} of the service')

    def losses(self):
        """[(step, tag, loss), ...] of the only run."""
        (run,) = self.runs
        found = [(step, values) for _, step, values in run['rows']]
        return [(s, k, v) for s, values in found for k, v in values.items() if 'loss' in k]


@pytest.fixture
def fake(monkeypatch):
    service = Fake()
    monkeypatch.setitem(trackers.TRACKERS, 'fake', service)
    return service


def run(folder, *steps: int, start: int = 0, names=('fake',), loss: float = 2.5, error=None):
    """A start that logs a train record at each step, and at even ones an eval record after it."""
    with Trackers(names, str(folder), 'my run', CONFIG) as opened:
        with Log(str(folder), start, 60, 64, 1437, opened) as log:
            for step in steps:
                log.train(step, TRAIN | {'loss': loss}, 0.1)
                if step % 2 == 0:
                    log.eval(step, EVAL | {'loss': loss + 1})
        if error:
            raise error


def test_a_tracker_gets_what_tensorboard_gets(tmp_path, fake, capsys):
    run(tmp_path, 4)
    ((_, step, train), (_, also, evaluation)) = fake.runs[0]['rows']
    assert (step, also) == (4, 4)
    assert (train['train/loss'], train['train/learning_rate']) == (2.5, 0.1)
    assert train['train/epoch'] == 256 / 1437
    assert (evaluation['eval/loss'], evaluation['eval/examples']) == (3.5, 320)
    assert not {tag for tag in evaluation if 'recall' in tag or 'step' in tag}
    assert (fake.runs[0]['title'], fake.runs[0]['config']) == ('my run', CONFIG.to_dict())
    assert capsys.readouterr().out.startswith('fake: fake run 0\n')


def test_a_resumed_run_continues_its_record_and_repeats_nothing(tmp_path, fake):
    run(tmp_path, 1, 2, 3)
    run(tmp_path, 2, 3, 4, start=1, loss=1.0)  # the checkpoint was of step 1
    expected = [(1, 'train', 2.5), (2, 'train', 2.5), (2, 'eval', 3.5), (3, 'train', 2.5)]
    expected += [(4, 'train', 1.0), (4, 'eval', 2.0)]
    assert fake.losses() == [(step, f'{split}/loss', loss) for step, split, loss in expected]


def test_stopped_between_the_two_records_of_a_step(tmp_path, fake):
    run(tmp_path, 1, 3)
    folder = str(tmp_path)
    with (
        Trackers(['fake'], folder, '', CONFIG) as opened,
        Log(folder, 3, 60, 64, 1437, opened) as log,
    ):
        log.eval(3, EVAL)
    assert [(s, k) for s, k, _ in fake.losses()][-2:] == [(3, 'train/loss'), (3, 'eval/loss')]


def test_a_tracker_that_is_added_later_gets_the_earlier_records(tmp_path, fake):
    run(tmp_path, 1, 3, names=())
    run(tmp_path, 5, start=3)
    assert [step for step, _, _ in fake.losses()] == [1, 3, 5]


@pytest.mark.parametrize('broken', ['open', 'log', 'finish'])
def test_a_tracker_that_fails_is_one_line_and_caught_up_by_the_next_start(
    tmp_path, fake, capsys, broken
):
    run(tmp_path, 1, loss=4.0)
    capsys.readouterr()
    fake.broken = broken
    run(tmp_path, 3, 5, start=1)
    (line,) = capsys.readouterr().err.splitlines()
    assert_has(line, '--log_to=fake', 'ConnectionError', f'no route to the {broken}', 'goes on')
    lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
    assert [json.loads(line)['step'] for line in lines] == [1, 3, 5]
    fake.broken = None
    run(tmp_path, 7, start=5)
    assert [(step, loss) for step, _, loss in fake.losses()] == [
        (1, 4),
        (3, 2.5),
        (5, 2.5),
        (7, 2.5),
    ]


@pytest.mark.parametrize(('row', 'steps'), [(0, [1, 3, 3, 5]), (6, [1, 3, 5])])
def test_what_a_kill_may_have_lost_is_sent_again_unless_the_service_has_it(
    tmp_path, fake, row, steps
):
    """Row 6 is that of step 3."""
    fake.keeps = False
    run(tmp_path, 1)
    killed = Trackers(['fake'], str(tmp_path), '', CONFIG).__enter__()
    with Log(str(tmp_path), 1, 60, 64, 1437, killed) as log:
        log.train(3, TRAIN, 0.1)
    fake.row = row
    run(tmp_path, 5, start=3)
    assert [step for step, _, _ in fake.losses()] == steps


def test_one_that_fails_leaves_the_other_alone(tmp_path, fake, monkeypatch):
    other = Fake()
    monkeypatch.setitem(trackers.TRACKERS, 'other', other)
    other.broken = 'log'
    run(tmp_path, 1, 3, names=['other', 'fake'])
    assert len(fake.losses()) == 2
    assert other.runs[0]['rows'] == []


def test_a_damaged_id_file_is_one_line(tmp_path, fake, capsys):
    (tmp_path / 'fake.json').write_text('{"id": "7')
    run(tmp_path, 1)
    (line,) = capsys.readouterr().err.splitlines()
    assert_has(line, '--log_to=fake', 'fake.json')
    assert fake.runs == []


def test_how_the_run_ends_is_passed_on(tmp_path, fake):
    run(tmp_path, 1)
    for error in (Interrupted('stopped', 15), Diverged('diverged'), ValueError()):
        with pytest.raises(type(error)):
            run(tmp_path, error=error)
    assert fake.runs[0]['ends'] == [0, 143, 3, 1]


def test_only_process_0_opens_trackers(tmp_path, fake, monkeypatch):
    monkeypatch.setattr('jax.process_index', lambda: 1)
    run(tmp_path, 1)
    assert fake.runs == []
    assert list(tmp_path.iterdir()) == []


# The flag


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """Both libraries are found."""
    for name in ('wandb', 'mlflow'):
        (tmp_path / name).mkdir()
        (tmp_path / name / '__init__.py').touch()
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures('installed')
def test_names():
    assert trackers.parse([]) == []
    assert trackers.parse(['wandb,mlflow']) == ['wandb', 'mlflow']
    assert trackers.parse(['mlflow', 'wandb, mlflow']) == ['mlflow', 'wandb']


@pytest.mark.parametrize('name', ['tensorboard', 'wandb;mlflow', ''])
def test_no_such_tracker(name):
    with pytest.raises(BadInput) as raised:
        trackers.parse([name])
    assert_has(str(raised.value), f'--log_to={name}:', 'wandb or mlflow')


@pytest.mark.parametrize(('name', 'package'), trackers.PACKAGES.items())
def test_missing_library(name, package, monkeypatch, tmp_path):
    """Even next to a folder of this name, in which W&B keeps its runs."""
    (tmp_path / name).mkdir()
    monkeypatch.setattr('sys.path', [str(tmp_path)])
    importlib.invalidate_caches()
    with pytest.raises(BadInput) as raised:
        trackers.parse([name])
    assert_has(str(raised.value), f'--log_to={name}', f'pip install {package}')


# The real ones, without a network


def wandb_rows(folder) -> list[tuple[int, dict]]:
    """[(row number, values), ...] that offline runs keep: LevelDB's log format, of protobufs."""
    pb = importlib.import_module('wandb.proto.wandb_internal_pb2')
    found = []
    for path in sorted(folder.glob('wandb/offline-run-*/*.wandb')):
        data, place = path.read_bytes(), 7  # after W&B's own header
        while place + 7 <= len(data):
            _, size, kind = struct.unpack('<IHB', data[place : place + 7])
            assert kind == 1  # whole; a longer file would be in blocks of 32 KiB
            record = pb.Record.FromString(data[place + 7 : place + 7 + size])
            place += 7 + size
            if record.HasField('history'):
                items = record.history.item
                values = {i.key or '.'.join(i.nested_key): json.loads(i.value_json) for i in items}
                found.append((record.history.step.num, values))
    return found


@pytest.fixture
def wandb():
    """W&B, which reads its variables once per session; the end of one flushes its files."""
    library = pytest.importorskip('wandb', reason='needs wandb')
    yield library
    library.teardown()


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')  # of other people's libraries
def test_wandb_offline(tmp_path, monkeypatch, capsys, wandb):
    monkeypatch.setenv('WANDB_MODE', 'offline')
    monkeypatch.setenv('WANDB_DIR', str(tmp_path))
    run(tmp_path, 1, 2, names=['wandb'])
    run(tmp_path, 2, 3, start=1, names=['wandb'], loss=1.0)
    wandb.teardown()
    assert 'wandb sync' in capsys.readouterr().out
    folders = [path.name for path in tmp_path.glob('wandb/offline-run-*')]
    identity = json.loads((tmp_path / 'wandb.json').read_text())['id']
    assert len(folders) == 2
    assert all(identity in name for name in folders)
    rows = wandb_rows(tmp_path)
    assert [(number, values['step']) for number, values in rows] == [(2, 1), (4, 2), (5, 2), (6, 3)]
    assert [v.get('train/loss', v.get('eval/loss')) for _, v in rows] == [2.5, 2.5, 3.5, 1.0]


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')
@pytest.mark.usefixtures('wandb')
def test_wandb_without_a_key_is_one_line(tmp_path, monkeypatch, capsys):
    for variable in ('WANDB_MODE', 'WANDB_API_KEY'):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv('HOME', str(tmp_path))  # where a key may be kept
    monkeypatch.setenv('NETRC', str(tmp_path / 'netrc'))
    (tmp_path / 'run').mkdir()
    run(tmp_path / 'run', 1, names=['wandb'])
    assert_has(capsys.readouterr().err, '--log_to=wandb: UsageError', 'wandb login')
    assert (tmp_path / 'run/metrics.jsonl').read_text().count('\n') == 1


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')
def test_mlflow_in_a_file(tmp_path, monkeypatch):
    pytest.importorskip('mlflow', reason='needs mlflow')
    from mlflow.tracking import MlflowClient

    uri = f'sqlite:///{tmp_path}/mlflow.db'
    monkeypatch.setenv('MLFLOW_TRACKING_URI', uri)
    with pytest.raises(Interrupted):
        run(tmp_path, 1, 2, names=['mlflow'], error=Interrupted('stopped', 15))
    client = MlflowClient(uri)
    identity = json.loads((tmp_path / 'mlflow.json').read_text())['id']
    assert client.get_run(identity).info.status == 'KILLED'
    run(tmp_path, 2, 3, start=1, names=['mlflow'], loss=1.0)
    found = client.get_run(identity)
    assert (found.info.status, found.info.run_name) == ('FINISHED', 'my run')
    assert found.data.params == {'seed': '7', 'data.name': 'digits', 'edits': "('no_lrn',)"}
    history = client.get_metric_history(identity, 'train/loss')
    assert [(m.step, m.value) for m in history] == [(1, 2.5), (2, 2.5), (3, 1.0)]
    assert [m.value for m in client.get_metric_history(identity, 'eval/loss')] == [3.5]
    assert len(client.search_runs([found.info.experiment_id])) == 1
