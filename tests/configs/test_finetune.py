"""configs/finetune.py: what it takes from the run, and what from the folder."""

import dataclasses

import pytest
from helpers import ROOT, assert_has

from alexnet_jax.cli import load_recipe
from alexnet_jax.config import validate
from alexnet_jax.data.sources import layout
from alexnet_jax.errors import BadInput


@pytest.fixture
def load(tmp_path):
    """load('bvlc', {'data.mean': 'none'}, images=4) -> the config for a run of that recipe."""

    def run(recipe, changes=(), images=4):
        for name in ('ant', 'bee', 'cat'):
            for split, count in (('train', images), ('validation', 2)):
                folder = tmp_path / 'images' / split / name
                folder.mkdir(parents=True, exist_ok=True)
                for number in range(count):
                    (folder / f'{number}.jpg').touch()
        before = load_recipe(recipe)
        before.update_from_flattened_dict(dict(changes))
        (tmp_path / 'run').mkdir()
        (tmp_path / 'run' / 'config.json').write_text(before.to_json())
        config = load_recipe(f'{ROOT}/configs/finetune.py:{tmp_path}/run,{tmp_path}/images')
        validate(config)
        return config

    return run


def test_the_network_is_the_runs_and_the_classes_the_folders(load, tmp_path):
    changes = {
        'edits': ('half_width', 'no_dropout'),
        'image_size': 99,
        'dtype': 'bfloat16',
        'precision': 'highest',
    }
    config = load('caffenet', changes)
    assert config.init_from == f'{tmp_path}/run'
    assert config.data.name == f'folder:{tmp_path}/images'
    assert (config.variant, config.num_classes, config.image_size) == ('caffenet', 3, 99)
    assert (config.edits, config.dtype) == (('half_width', 'no_dropout'), 'bfloat16')
    assert config.precision == 'highest'
    assert config.optimizer.freeze == ()


@pytest.mark.parametrize(
    ('recipe', 'eval_ops', 'train_ops'),
    [
        ('bvlc', None, 'decode|resize(256, antialias)|random_crop(227)|random_mirror'),
        (
            'imagenet',
            None,
            'decode|resize_short(256, antialias)|center_crop(256)|random_crop(227)|random_mirror',
        ),
        ('quickstart', None, 'decode|resize(28, antialias)|random_mirror'),
        (
            'torchvision',
            'decode|torchvision(256, 224)',
            'decode|resize_short(256, antialias)|random_crop(224)|random_mirror',
        ),
        (
            'imagenet',
            'decode|resize_short(256)|ten_crop(227)',
            'decode|resize_short(256, antialias)|random_crop(227)|random_mirror',
        ),
        (
            'imagenet',
            'decode|resize_short(256)|mirrored_crops(227, 5)',
            'decode|resize_short(256, antialias)|random_crop(227)|random_mirror',
        ),
        (
            'imagenet',
            'decode|resize(227, antialias)',
            'decode|resize(227, antialias)|random_mirror',
        ),
    ],
)
def test_ops_follow_the_runs(load, recipe, eval_ops, train_ops):
    config = load(recipe, {'data.eval_ops': eval_ops} if eval_ops else {})
    theirs = eval_ops or load_recipe(recipe).data.eval_ops
    # The photos of a folder are turned as their tags say; those of ILSVRC-2012 are not. They may be
    # large.
    theirs = theirs.replace('decode(stored)', 'decode')
    for size in ('(256)', '(28)'):
        theirs = theirs.replace(f'resize{size}', f'resize({size[1:-1]}, antialias)')
        theirs = theirs.replace(f'resize_short{size}', f'resize_short({size[1:-1]}, antialias)')
    assert config.data.eval_ops == theirs
    assert config.data.train_ops == train_ops


def test_ops_for_images_of_one_size_get_a_resize(load):
    """CIFAR-10's images are 32 x 32 as they come; those of a folder may have any size."""
    config = load('cifar10')
    assert config.data.eval_ops == 'decode|resize_short(32, antialias)|center_crop(32)'
    assert config.data.train_ops == (
        'decode|resize_short(32, antialias)|random_crop(32)|random_mirror'
    )


@pytest.mark.parametrize(
    ('recipe', 'mean', 'expected'),
    [
        ('bvlc', 'image', 'init_from'),
        ('bvlc', 'init_from', 'init_from'),
        ('torchvision', 'none', 'none'),
    ],
)
def test_the_mean_is_the_runs(load, recipe, mean, expected):
    changes = {'data.mean': mean, 'init_from': 'runs/earlier'}
    assert load(recipe, changes).data.mean == expected


def test_rates_are_caffes(load):
    """models/finetune_flickr_style: base_lr 0.001; lr_mult 1 and 2, in the last layer 10 and 20."""
    o = load('cifar10').optimizer
    assert o.learning_rate == 0.001
    assert o.lr_multipliers == (('fc10/kernel', 10.0), ('fc10/bias', 20.0), ('*/bias', 2.0))
    assert o.weight_decay_multipliers == (('*/bias', 0.0),)
    assert (o.schedule, o.gamma, o.momentum, o.weight_decay) == ('step', 0.1, 0.9, 5e-4)


@pytest.mark.parametrize(
    ('images', 'checkpoint_every', 'eval_every'),
    [
        (4, 100, 100),
        (4000, 200, 200),  # 187.5 steps an epoch
        (20_000, 500, 1000),  # 937.5
    ],
)
def test_it_is_scored_about_once_an_epoch(load, monkeypatch, images, checkpoint_every, eval_every):
    find_layout = layout.find_layout

    def as_large(path):
        found = find_layout(path)
        train = dataclasses.replace(found.train, files=['x.jpg'] * 3 * images)
        return dataclasses.replace(found, train=train)

    monkeypatch.setattr(layout, 'find_layout', as_large)
    config = load('quickstart')
    assert (config.checkpoint_every, config.eval_every) == (checkpoint_every, eval_every)


@pytest.mark.parametrize(
    ('images', 'batch_size', 'epochs'),
    [
        (2, 16, 2667),  # 6 images: 1,000 steps of 16
        (20, 16, 267),  # 16,000 / 60 = 266.7
        (200, 32, 54),  # 600 / 32 is 18.75 steps an epoch; 32,000 / 600 = 53.3
        (4000, 64, 10),  # 1,875 steps
    ],
)
def test_batch_and_epochs_follow_the_number_of_images(load, images, batch_size, epochs):
    config = load('quickstart', images=images)
    assert (config.batch_size, config.epochs) == (batch_size, epochs)
    assert 0 < config.optimizer.milestones[0] < epochs
    validate(config, devices=8)


def test_batch_norms_groups_fit_the_batch(load):
    assert load('lars').ghost_batch_size == 16  # of 64, for a batch of 16


@pytest.mark.parametrize('argument', ['', ':', ':runs/a', ':,PATH', ':runs/a,'])
def test_both_arguments_are_needed(argument):
    with pytest.raises(BadInput) as error:
        load_recipe(f'{ROOT}/configs/finetune.py{argument}')
    assert_has(str(error.value), 'configs/finetune.py:RUN,PATH', 'a run and a folder')


def test_a_run_and_a_folder_with_commas_in_their_names(load, tmp_path):
    load('quickstart')
    run, images = tmp_path / 'lr=0.01,wd=5e-4', tmp_path / 'ants,bees'
    (tmp_path / 'run').rename(run)
    (tmp_path / 'images').rename(images)
    config = load_recipe(f'{ROOT}/configs/finetune.py:{run},{images}')
    assert (config.init_from, config.data.name) == (str(run), f'folder:{images}')


def test_no_such_run_or_folder(load, tmp_path):
    with pytest.raises(BadInput, match='nowhere holds no run'):
        load_recipe(f'{ROOT}/configs/finetune.py:{tmp_path}/nowhere,{tmp_path}')
    load('quickstart')
    with pytest.raises(BadInput, match=r'the folder .*nowhere does not exist'):
        load_recipe(f'{ROOT}/configs/finetune.py:{tmp_path}/run,{tmp_path}/nowhere')


def test_the_recorded_config_does_not_need_the_run(load, tmp_path):
    """A finished run is repeated from its config.json."""
    config = load('quickstart')
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'config.json').write_text(config.to_json())
    (tmp_path / 'run' / 'config.json').unlink()
    assert load_recipe(f'{tmp_path}/mine/config.json').to_dict() == config.to_dict()
