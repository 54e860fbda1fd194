"""The page of a report against what is known of a run, and its parts by hand."""

import base64
import hashlib
import html.parser
import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from trained_runs import save_run

from alexnet_jax import files
from alexnet_jax.cloud.store import Store
from alexnet_jax.config import default_config
from alexnet_jax.data import statistics
from alexnet_jax.drawing import figures
from alexnet_jax.model import variants
from alexnet_jax.model.layers import LRN, Conv, Dense, MaxPool, ReLU
from alexnet_jax.model.shapes import layer_infos
from alexnet_jax.report import __main__ as report
from alexnet_jax.report import one_run
from alexnet_jax.report import run as run_reading
from alexnet_jax.report.published import PUBLISHED, dataset_of, find
from alexnet_jax.report.run import (
    Run,
    differences,
    first_kernels,
    nearest,
    read_runs,
    training_minutes,
)
from alexnet_jax.run.push import Pusher

HOSTILE = ['<img src=x onerror=alert(1)>', '"><script>$x^$', '_und & co']
LINEAR = (Dense('fc', 10),)
CONVS = (
    Conv('conv1', 8, 3), ReLU(), LRN(groups=2), MaxPool(2, 2),
    Dense('fc2', 6), ReLU(),
    Dense('fc3', 10),
)  # fmt: skip


def record(step, split, top1, rate=100.0):
    scores = {'loss': 1.5 - top1, 'top1': top1, 'top5': 0.75, 'examples': 8, 'bad_images': 0}
    return {'step': step, 'epoch': step / 10, 'split': split, **scores, 'images_per_second': rate}


RECORDS = [
    record(2, 'train', 0.25), record(4, 'train', 0.5), record(4, 'eval', 0.625),
    record(6, 'train', 0.5), record(6, 'eval', 0.375),
]  # fmt: skip


def random_params(table):
    rng, size, params = np.random.RandomState(0), (8, 8, 3), {}
    for info in layer_infos(table, size[0]):
        if info.kernel:
            kernel = rng.normal(0, 0.02, info.kernel).astype(np.float32)
            params[info.name] = {'kernel': kernel, 'bias': np.zeros(info.kernel[-1], np.float32)}
    return params


@pytest.fixture
def make_run(tmp_path, monkeypatch):
    """make_run(name, table, {'seed': 1, ...}, classes) -> (workdir, params): an untrained run."""

    def make(name='run', table=CONVS, values=None, classes=tuple('0123456789')):
        monkeypatch.setitem(variants.VARIANTS, f'table_{name}', table)
        config = default_config()
        config.variant, config.image_size, config.num_classes = f'table_{name}', 8, 10
        config.data.eval_split = 'test'
        config.update_from_flattened_dict(values or {})
        folder, params = tmp_path / name, random_params(table)
        save_run(folder, config, classes, {4: ({'params': params}, 0.625)})
        image = np.full((8, 8, 3), 100.0, np.float32)
        found = statistics.Statistics(image, np.full(3, 900.0), np.eye(3), 'here')
        statistics.save(folder / 'statistics.npz', found)
        (folder / 'metrics.jsonl').write_text(''.join(json.dumps(r) + '\n' for r in RECORDS))
        return folder, params

    return make


@pytest.fixture
def command(call):
    """command('runs/x', ...) -> exit code, last line on stderr."""

    def run(*args):
        code, _, err = call(report, *args)
        return code, err.splitlines()[-1] if err else ''

    return run


class Page(html.parser.HTMLParser):
    """What a browser makes of a page: text, images and tags."""

    def __init__(self, path: Path):
        super().__init__()
        self.source = path.read_text()
        self.tags, self.images, self.text = [], [], ''
        self.feed(self.source)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag == 'img':
            self.images.append(dict(attributes))

    def handle_data(self, data):
        if self.lasttag != 'style':
            self.text += ' '.join([*data.split(), ''])


def check_self_contained(page: Page) -> list[bytes]:
    """Nothing is fetched and nothing runs; returns the images."""
    assert not {'script', 'link', 'iframe', 'object', 'base'} & set(page.tags)
    assert not re.search(r'https?://|@import|url\(', page.source)
    prefix = 'data:image/png;base64,'
    assert all(image['src'].startswith(prefix) and image['alt'] for image in page.images)
    assert page.tags.count('figcaption') == len(page.images) == page.tags.count('figure')
    return [base64.b64decode(image['src'].removeprefix(prefix)) for image in page.images]


def hashes(folder: Path) -> dict:
    files = (path for path in folder.rglob('*') if path.is_file())
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_one_run(make_run, command):
    ops = 'decode|resize(10)|random_crop(8)|pca_shift(0.1)'
    folder, _ = make_run(values={'data.train_ops': ops, 'data.eval_ops': 'decode'})
    before = hashes(folder)
    assert command(folder, '--neighbors_among=40') == (0, '')
    page = Page(folder / 'report' / 'report.html')
    images = check_self_contained(page)
    written = {path.stem: path.read_bytes() for path in (folder / 'report').glob('*.png')}
    assert written.keys() == set(report.FIGURES)
    assert list(written.values()) == [png for png in written.values() if png in images]
    assert written.keys() == {
        'curves', 'throughput', 'kernels', 'predictions', 'mistakes', 'heat-maps',
        'heat-maps-of-mistakes', 'neighbors', 'confusion', 'augmentation',
    }  # fmt: skip
    assert hashes(folder).items() >= before.items()
    assert 'missing' not in page.text
    assert f'data.train_ops {ops} decode' in page.text
    assert 'among 40 drawn at random, the training images' in page.text
    assert 'run, best table_run digits, test: decode 0.40 37.50% 25.00% 0.8750' in page.text
    assert 'run, last table_run digits, test: decode 0.60 62.50% 25.00% 1.1250' in page.text


def test_hiding_nothing_costs_nothing(make_run, command, monkeypatch):
    """Though the guess is the average of ten views, and the map is of the center alone."""
    folder, _ = make_run(values={'data.eval_ops': 'decode|resize(10)|ten_crop(8)'})
    lost = []

    def occlusion(net, images, labels):
        kept = net.probabilities(images)[np.arange(len(images)), labels]
        return np.broadcast_to(kept[:, None, None], (len(images), 3, 3))

    def at_pixels(maps, size):
        lost.append(maps)
        return np.zeros((len(maps), size, size))

    monkeypatch.setattr(one_run.saliency, 'occlusion', occlusion)
    monkeypatch.setattr(one_run.saliency, 'at_pixels', at_pixels)
    assert command(folder, '--neighbors_among=40') == (0, '')
    (maps,) = lost
    np.testing.assert_allclose(maps, 0, atol=1e-5)


@pytest.mark.slow
def test_scores_and_neighbors_of_a_linear_net(make_run, command):
    """Its features are pixels, and its classes a matrix product."""
    from sklearn.datasets import load_digits

    folder, params = make_run(table=LINEAR)
    assert command(folder) == (0, '')
    text = Page(folder / 'report' / 'report.html').text
    digits = load_digits()
    pixels = np.round(digits.images * 255 / 16).reshape(-1, 64)
    logits = np.repeat(pixels - 100, 3, 1) @ params['fc']['kernel'].astype(np.float64)
    guesses, labels = logits.argmax(1)[-360:], digits.target[-360:]
    wrong = int((guesses != labels).sum())
    assert f'{wrong} of 360 wrong, {wrong / 360:.2%}' in text
    pairs = [(t, g) for t, g in zip(labels, guesses, strict=True) if t != g]
    most = max(pairs.count(pair) for pair in pairs)
    truth = next(pair for pair in sorted(pairs) if pairs.count(pair) == most)
    count = (labels == truth[0]).sum()
    assert f'true class predicted class images {truth[0]} {truth[1]} {most} of {count}' in text
    shown = np.linspace(0, 359, 8).astype(int)
    same = 0
    for query, label in zip(pixels[-360:][shown], labels[shown], strict=True):
        near = np.argsort(((pixels[:-360] - query) ** 2).sum(1))[:6]
        same += (digits.target[near] == label).sum()
    assert f'{same} of 48 neighbors have the same class' in text
    assert 'The kernels are missing: the first layer, fc, has no color kernels' in text
    assert 'None: data.train_ops is decode, which has no random op.' in text


@pytest.mark.slow
def test_hostile_names(make_run, command, tmp_path):
    """Of classes, which are folders, and of the run."""
    rng = np.random.RandomState(0)
    for split in ('train', 'test'):
        for name in HOSTILE:
            path = tmp_path / 'images' / split / name / 'a.png'
            path.parent.mkdir(parents=True)
            Image.fromarray(rng.randint(0, 256, (8, 8, 3), np.uint8)).save(path)
    values = {'data.name': f'folder:{tmp_path}/images'}
    folder, _ = make_run('_<b>$y$', values=values, classes=sorted(HOSTILE))
    other, _ = make_run('other', values=values | {'seed': 1}, classes=sorted(HOSTILE))
    out = tmp_path / 'pages' / 'both.html'
    assert command(folder, other, f'--output={out}') == (0, '')
    page = Page(out)
    check_self_contained(page)
    assert not {'b', 'und'} & set(page.tags)
    assert 'missing' not in page.text
    for name in HOSTILE:
        assert name in page.text  # as text: in the table of the most frequent mistakes
    assert 'key _<b>$y$ other seed 0 1 variant table__<b>$y$ table_other' in page.text
    names = {path.name for path in (tmp_path / 'pages' / 'both_files').iterdir()}
    assert {'curves.png', '1-__b__y_-kernels.png', '2-other-kernels.png'} <= names


def test_without_data(make_run, command, tmp_path):
    values = {'data.name': f'folder:{tmp_path}/gone'}
    folder, _ = make_run(values=values)
    assert command(folder) == (0, '')
    page = Page(folder / 'report' / 'report.html')
    assert len(check_self_contained(page)) == 3  # curves, throughput, kernels
    assert (
        'Everything that needs the images is missing: data.name: the folder '
        f'{tmp_path}/gone does not exist' in page.text
    )


def test_data_that_cannot_be_listed(make_run, command, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, 'Permission denied', '/data/cat')

    monkeypatch.setattr('alexnet_jax.data.examples.Examples', refuse)
    folder, _ = make_run(values={'data.name': 'folder:/data'})
    assert command(folder) == (0, '')
    text = Page(folder / 'report/report.html').text
    assert 'missing: folder:/data cannot be read: [Errno 13] Permission denied' in text


def test_without_tensorflow(make_run, command, monkeypatch):
    folder, _ = make_run()
    monkeypatch.setitem(sys.modules, 'alexnet_jax.data.examples', None)
    monkeypatch.delattr('alexnet_jax.data.examples', raising=False)
    assert command(folder) == (0, '')
    text = Page(folder / 'report/report.html').text
    assert 'Everything that needs the images is missing: ' in text
    assert 'The 8 kernels of conv1' in text


def test_other_classes_now(make_run, command):
    folder, _ = make_run(classes=list('abcdefghij'))
    assert command(folder) == (0, '')
    text = Page(folder / 'report/report.html').text
    assert f'digits now has different classes from when {folder} was trained' in text


def test_the_same_classes_in_another_order(make_run):
    """As of a converted net: of 9, 8, 7, ... a digit d is the class 9 - d."""
    from sklearn.datasets import load_digits

    folder, _ = make_run(classes=tuple('9876543210'))
    (run,) = read_runs([str(folder)])
    _, _, labels = one_run._open_examples(run).images('eval', np.arange(20))
    np.testing.assert_array_equal(labels, 9 - load_digits().target[-360:][:20])


def test_without_checkpoint_or_records(make_run, command, tmp_path):
    folder, _ = make_run()
    (folder / 'metrics.jsonl').write_text('[1]\n{"split": "train"}\n')
    (folder / 'checkpoints').rename(tmp_path / 'elsewhere')
    assert command(folder) == (0, '')
    text = Page(folder / 'report/report.html').text
    assert 'The curve of run is missing: its metrics.jsonl has no records' in text
    assert f'missing: {folder} has no checkpoint' in text
    assert 'not evaluated yet' in text


EARLIER = {'mistakes.png', '2-other_run-heat-maps.png', 'holiday.png', 'mistakes.jpg'}


@pytest.fixture
def poor_run(make_run):
    """A run of which a report has only curves, throughput and kernels, and an earlier report."""
    folder, _ = make_run(values={'data.name': 'folder:gone'})
    (folder / 'report').mkdir()
    for name in (*EARLIER, 'curves.png', 'report.html'):
        (folder / 'report' / name).write_text('earlier')
    return folder


def test_figures_of_an_earlier_report_go(poor_run, command):
    assert command(poor_run) == (0, '')
    assert {path.name for path in (poor_run / 'report').iterdir()} == {
        'report.html', 'curves.png', 'throughput.png', 'kernels.png',
        'holiday.png', 'mistakes.jpg',
    }  # fmt: skip


def test_figures_in_a_folder_of_the_user_stay(poor_run, command, tmp_path):
    """They may be the user's own, by a common name."""
    (tmp_path / 'paper').mkdir()
    (tmp_path / 'paper' / 'confusion.png').write_text('my own')
    assert command(poor_run, f'--output={tmp_path}/paper/paper.html') == (0, '')
    assert (tmp_path / 'paper' / 'confusion.png').read_text() == 'my own'


@pytest.mark.parametrize('name', ['curves.png', 'report.html'])
def test_a_report_that_fails_leaves_the_earlier_one(poor_run, command, monkeypatch, name):
    sync = files.sync

    def fail(path):
        if path.name.startswith(name):
            raise OSError(28, 'No space left on device')
        sync(path)

    monkeypatch.setattr(files, 'sync', fail)
    assert command(poor_run)[0] == 1
    assert (poor_run / 'report' / name).read_text() == 'earlier'
    assert {path.name for path in (poor_run / 'report').iterdir()} >= EARLIER


@pytest.mark.usefixtures('own_cache')
def test_the_report_of_a_run_in_a_bucket(poor_run, command, url):
    Pusher(Store(url), poor_run).push()
    assert {f'report/{name}' for name in EARLIER} < set(Store(url).list('report'))
    assert command(url) == (0, '')
    assert list(Store(url).list('report')) == [
        'report/curves.png', 'report/holiday.png', 'report/kernels.png', 'report/mistakes.jpg',
        'report/report.html', 'report/throughput.png',
    ]  # fmt: skip
    assert Store(url).read('report/report.html').startswith(b'<!DOCTYPE html>')


def test_the_top_five_of_five_classes_are_not_shown():
    """Of six, the error is 25%, and the column is there, empty for five."""
    runs = []
    for classes in (5, 6):
        config = default_config()
        config.num_classes = classes
        runs.append(Run(f'of{classes}', 'x', config, [], RECORDS[2:3]))
    five, both = report._error_table(runs[:1]), report._error_table(runs)
    assert 'top-5 error' not in five
    assert '<td>37.50%</td><td>0.8750</td>' in five
    assert 'top-5 error' in both
    assert '<td>37.50%</td><td></td><td>0.8750</td>' in both
    assert '<td>37.50%</td><td>25.00%</td><td>0.8750</td>' in both


@pytest.mark.parametrize(
    ('args', 'line'),
    [
        ((), report.USAGE),
        (('nowhere',), 'nowhere holds no run: cannot read nowhere/config.json'),
        (('a', 'b'), f'several runs need --output; {report.USAGE}'),
        (('a', '--output=page.txt'), '--output=page.txt; it must end in .html'),
        (('a', '--neighbors_among=0'), '--neighbors_among=0; it must be above 0'),
        (('a', '--neighbors=3'), 'unknown flag --neighbors; '),
    ],
)
def test_bad_input(command, args, line):
    code, found = command(*args)
    assert code == 2
    assert found.startswith(f'error: {line}')


def test_differences():
    a, b = default_config(), default_config()
    assert differences([a, b]) == []
    b.seed, b.optimizer.momentum = 7, 0.5
    assert differences([a, b, b]) == [('optimizer.momentum', [0.9, 0.5, 0.5]), ('seed', [0, 7, 7])]
    b.edits = ('tanh',)
    assert differences([b]) == [  # against the defaults
        ('edits', [('tanh',), ()]), ('optimizer.momentum', [0.5, 0.9]), ('seed', [7, 0]),
    ]  # fmt: skip


def test_nearest():
    features = np.array([[0.0, 0], [3, 4], [1, 0], [0, 2]])
    queries = np.array([[0.0, 0], [3, 3]])  # distances 0 5 1 2 and 4.24 1 3.61 3.16
    np.testing.assert_array_equal(nearest(queries, features, 3), [[0, 2, 3], [1, 3, 2]])
    np.testing.assert_array_equal(nearest(queries, features[:2], 6), [[0, 1], [1, 0]])


def test_training_minutes():
    """60 images a step: 10 steps at 10 images/s take a minute, 10 at 20 half of one."""
    records = [
        record(10, 'train', 0, 10.0), record(20, 'train', 0, 0.0), record(30, 'train', 0, 20.0),
    ]  # fmt: skip
    assert training_minutes(records, 60) == ([1.0, 1.5], [10.0, 20.0])


@pytest.mark.parametrize(
    ('paths', 'names'),
    [
        (['/data/ann/lr1/run', '/data/ann/lr2/run'], ['lr1', 'lr2']),
        (['runs/a/1', 'runs/b/1', 'runs/b/2'], ['a/1', 'b/1', 'b/2']),
        (['gs://ann/run', 'gs://bob/run'], ['ann', 'bob']),
        (['run', 'other/run'], ['run', 'other/run']),
        (['x/run', 'x/run/run'], ['run', 'run/run']),
    ],
)
def test_runs_of_one_name_are_called_by_what_differs(paths, names):
    assert run_reading._what_differs(paths) == names


def test_the_legend_tells_runs_of_one_name_apart(make_run, tmp_path):
    """Though their paths begin alike for longer than a legend has room for."""
    deep = 'experiments-of-a-long-name/' * 4
    runs = [str(make_run(f'{deep}{name}/run')[0]) for name in ('slow', 'fast')]
    drawn = {run.name: run.records for run in read_runs(runs)}
    texts = figures.curves(drawn).legends[0].get_texts()
    assert [text.get_text() for text in texts] == ['evaluation', 'training', 'slow', 'fast']


def test_a_run_that_may_only_be_read(make_run, command, monkeypatch, tmp_path):
    """`os.access` is replaced: root may write anywhere."""
    folder, _ = make_run()
    monkeypatch.setattr(os, 'access', lambda path, mode: not str(path).startswith(str(folder)))
    line = f'error: {folder} is not writable; pass --output=FILE.html'
    assert command(folder) == (2, line)
    (folder / 'report').mkdir()
    assert command(folder)[1].startswith(f'error: {folder}/report is not writable')
    monkeypatch.setattr(report, 'write_report', lambda *_: None)
    assert command(folder, f'--output={tmp_path}/x.html') == (0, '')


def test_first_kernels():
    kernel = np.zeros((11, 11, 3, 96), np.float32)
    for variant, towers in (('course', 1), ('paper', 2)):
        table = variants.VARIANTS[variant]
        name, found, groups = first_kernels(table, {'conv1': {'kernel': kernel}})
        assert (name, found.shape, groups) == ('conv1', kernel.shape, towers)


@pytest.mark.parametrize(
    ('name', 'dataset'),
    [
        ('tfds:cifar10:3.0.2', 'cifar10'),
        ('tfds:cifar100', 'cifar100'),
        ('tfds:cifar10_corrupted/fog_5:1.0.0', 'cifar10_corrupted'),
        ('tfds:imagenet2012_subset/10pct', 'imagenet2012_subset'),
        ('prepared:/data/imagenet2012-256-jpeg95/', 'imagenet2012'),
        ('folder:/home/cifar10/mine', 'mine'),
        ('prepared:/data/imagenet2012_subset-10pct-256-jpeg95', 'imagenet2012_subset'),
        ('prepared:cifar10_corrupted-fog_5-jpeg95', 'cifar10_corrupted'),
        ('digits', ''),
    ],
)
def test_dataset_of(name, dataset):
    assert dataset_of(name) == dataset


@pytest.mark.parametrize(
    ('manifest', 'dataset'),
    [
        ('{"dataset": "tfds:imagenet2012:5.1.0"}', 'imagenet2012'),
        ('{"dataset": "folder:/home/mine"}', 'ilsvrc'),
        ('{}', 'ilsvrc'),
        ('damaged', 'ilsvrc'),
    ],
)
def test_dataset_that_a_prepared_set_was_made_of(tmp_path, manifest, dataset):
    folder = tmp_path / 'ilsvrc-256'
    folder.mkdir()
    (folder / 'manifest.json').write_text(manifest)
    assert dataset_of(f'prepared:{folder}') == dataset


def test_published():
    config = default_config()
    config.variant, config.data.name = 'paper', 'tfds:imagenet2012'
    assert [(p.top1, p.top5) for p in find(config)] == [('40.7%', '18.2%'), ('38.1%', '16.4%')]
    config.edits = ('no_lrn',)
    assert find(config) == []
    config.variant, config.edits, config.data.name = 'cifar10_18pct', (), 'tfds:cifar10'
    assert [p.top1 for p in find(config)] == ['18%', '18 to 21%']  # the second of ports
    config.edits = ('no_lrn',)
    assert [p.top1 for p in find(config)] == ['19%', '14.2%']  # the second on crops


def test_what_is_published_names_networks_that_there_are():
    for published in PUBLISHED:
        assert published.variant in variants.VARIANTS
        assert set(published.edits) <= variants.EDITS.keys()
