"""What JPEG costs: the images of each trial, and the table by hand."""

import itertools
import shutil

import numpy as np
import pytest
from experiments.made_up import record
from helpers import assert_has, write_images
from PIL import Image

from alexnet_jax.cli import load_recipe
from alexnet_jax.config import validate
from alexnet_jax.errors import BadInput
from alexnet_jax.experiments import jpeg
from alexnet_jax.experiments.records import Records
from alexnet_jax.training import optimizer


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """20 + 5 images of each of two classes; sets of 10, 20 and 30 of them."""
    monkeypatch.setattr(jpeg, 'SIZES', (10, 20, 30))
    folders = {'train/ant': 20, 'train/bee': 20, 'validation/ant': 5, 'validation/bee': 5}
    names = [f'{name}/{i}.png' for name, count in folders.items() for i in range(count)]
    write_images(tmp_path / 'images', dict.fromkeys(names, (16, 16)))
    return tmp_path / 'images'


def test_the_same_images_in_both_kinds(folder, tmp_path):
    jpeg.lay_out(str(folder), tmp_path / 'runs', 3)
    data = tmp_path / 'runs' / 'data'
    for size in jpeg.SIZES:
        names = {}
        for kind in jpeg.KINDS:
            root = data / f'{kind}_{size}_seed3'
            counts = [len(list((root / split).glob('*/*'))) for split in ('train', 'validation')]
            assert counts == [size, 50 - size]
            found = sorted(path.relative_to(root) for path in root.glob('*/*/*'))
            names[kind] = [path.with_suffix('') for path in found]
        assert names['original'] == names['jpeg']
    smaller, larger = (
        {path.name for path in (data / f'jpeg_{size}_seed3' / 'train').glob('*/*')}
        for size in (10, 20)
    )
    assert smaller < larger


def test_the_images_are_compressed_as_said(folder, tmp_path):
    jpeg.lay_out(str(folder), tmp_path / 'runs', 0)
    root = tmp_path / 'runs' / 'data'
    path = next((root / 'jpeg_10_seed0' / 'train').glob('*/*'))
    original = root / 'original_10_seed0' / path.relative_to(root / 'jpeg_10_seed0')
    with Image.open(path) as image:
        assert image.format == 'JPEG'
        assert image.layer[0][1:3] == (2, 2)  # luminance has twice the samples of ...
        assert image.layer[1][1:3] == (1, 1)  # ... the colors, both ways: 4:2:0
        assert image.quantization[0][0] == 8  # 16 at quality 50, halved at 75
        pixels = np.asarray(image, int)
    with Image.open(original.with_suffix('.png')) as image:
        assert np.asarray(image).shape == pixels.shape
        assert np.abs(np.asarray(image, int) - pixels).mean() > 5  # of noise


def test_each_seed_draws_its_own_images(folder, tmp_path):
    for seed in (0, 1, 0):
        jpeg.lay_out(str(folder), tmp_path / 'runs', seed)
    first, second = (
        {path.name for path in (tmp_path / f'runs/data/jpeg_10_seed{seed}/train').glob('*/*')}
        for seed in (0, 1)
    )
    assert first != second


def test_images_of_two_folders_are_not_mixed(folder, tmp_path):
    jpeg.lay_out(str(folder), tmp_path / 'runs', 0)
    other = folder.rename(tmp_path / 'moved')
    with pytest.raises(BadInput, match=rf'from --folder={folder}; remove it to use {other}'):
        jpeg.lay_out(str(other), tmp_path / 'runs', 1)


def test_images_that_came_later_are_not_mixed_in(folder, tmp_path):
    """They change which images each seed draws, and the links of before stay."""
    jpeg.lay_out(str(folder), tmp_path / 'runs', 0)
    links = set((tmp_path / 'runs').rglob('*'))
    shutil.copy(folder / 'train/ant/0.png', folder / 'train/ant/00.png')
    with pytest.raises(BadInput, match='has other images than when'):
        jpeg.lay_out(str(folder), tmp_path / 'runs', 1)
    assert set((tmp_path / 'runs').rglob('*')) == links


def test_a_folder_that_will_not_do(folder, tmp_path):
    for name, number in itertools.product(('ant', 'bee'), range(10, 20)):
        (folder / 'train' / name / f'{number}.png').unlink()
    with pytest.raises(BadInput) as error:
        jpeg.lay_out(str(folder), tmp_path / 'runs', 0)
    assert_has(str(error.value), str(folder), '30 images', 'more than 30')
    (folder / 'train' / 'ant' / '0.png').rename(folder / 'train' / 'ant' / '0.jpg')
    with pytest.raises(BadInput) as error:
        jpeg.lay_out(str(folder), tmp_path / 'runs', 0)
    assert_has(str(error.value), '0.jpg', 'compressed')
    assert not (tmp_path / 'runs').exists()


@pytest.mark.parametrize('trial', [t for pair in jpeg.PAIRS for t in pair], ids=lambda t: t.name)
def test_trials(trial):
    config = load_recipe(trial.config)
    config.update_from_flattened_dict(trial.overrides)
    config.epochs = trial.epochs
    validate(config)
    size = int(trial.name.split('_')[-1])
    steps = 1750 if trial.name.startswith('80sec') else 3500
    assert optimizer.total_steps(config, size) == steps


def put(records: Records, net: str, size: int, costs: list[float]) -> None:
    for seed, cost in enumerate(costs):
        for kind, error in (('original', 0.5), ('jpeg', 0.5 + cost / 100)):
            records.put('jpeg', record(jpeg.make_trial(net, kind, size), error, seed))


def test_table_and_verdict(tmp_path):
    """At 1,000 images, costs of 1 to 3 points: mean 2, deviation 0.7906, error 0.3536."""
    records = Records(tmp_path)
    put(records, '80sec', 1000, [1.0, 1.5, 2.0, 2.5, 3.0])
    lines = jpeg.table(records).splitlines()
    assert lines[2] == (
        '| 80-second net | 1,000 | 50.00 ± 0.00 (5 seeds) | 52.00 ± 0.79 (5 seeds) | '
        '+2.00 ± 0.98 points (5 seeds) |'
    )
    assert jpeg.EXPERIMENT.verdict(records) == 'supported'
    assert '| 80-second net | 50,000, extrapolated |  |  | not run yet |' in lines
    put(records, '80sec', 2000, [1.0, 1.0])
    # On a line through (log 1000, 2) and (log 2000, 1): another log(25) / log(2) = 4.64 lower.
    found = jpeg.extrapolated('80sec', records)
    assert (found.mean, found.degrees) == (pytest.approx(1 - 4.644, abs=1e-3), 5)
    (axes,) = jpeg.figure(records).axes
    assert len(axes.containers) == 2


def test_one_size_after_the_other(tmp_path):
    """All seeds of a size come before the next size."""
    records = Records(tmp_path)
    first, *_ = jpeg.EXPERIMENT.stages
    assert first(records, 4) == jpeg.make_trial('80sec', 'original', 1000)
    put(records, '80sec', 1000, [1.0] * 5)
    assert not any(first(records, seed) for seed in range(5))
    assert jpeg.EXPERIMENT.next_trial(records, 0) == jpeg.make_trial('80sec', 'original', 2000)
