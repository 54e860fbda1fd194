"""The printed table against rows worked out by hand."""

import pytest
from helpers import ROOT, assert_has
from tables import IMAGE_SIZES

from alexnet_jax import summary as command
from alexnet_jax.config import default_config
from alexnet_jax.model.edits import EDITS
from alexnet_jax.model.summary import summary
from alexnet_jax.model.variants import VARIANTS


def lines_of(variant: str, *edits: str, num_classes: int = 1000) -> list[str]:
    """The lines of the summary, with single spaces."""
    config = default_config()
    config.variant, config.edits = variant, edits
    config.image_size, config.num_classes = IMAGE_SIZES[variant], num_classes
    return [' '.join(line.split()) for line in summary(config).splitlines()]


def test_course():
    conv1 = 55 * 55 * 96 * 11 * 11 * 3
    conv2 = 27 * 27 * 256 * 5 * 5 * 96
    conv3 = 13 * 13 * 384 * 3 * 3 * 256
    conv4 = 13 * 13 * 384 * 3 * 3 * 384
    conv5 = 13 * 13 * 256 * 3 * 3 * 384
    fc6, fc7, fc8 = 4096 * 9216, 4096 * 4096, 1000 * 4096
    total = conv1 + conv2 + conv3 + conv4 + conv5 + fc6 + fc7 + fc8
    assert (conv1, total) == (105_415_200, 1_135_256_096)
    norm = '5 channels, k=2, alpha=0.0001, beta=0.75'
    pool = '3x3, stride 2 (overlapping)'
    assert lines_of('course') == [
        'course',
        'layer output definition formula parameters multiply-adds',
        'INPUT 227x227x3 color image',
        'CONV1 55x55x96 96 filters 11x11x3, stride 4, pad 0, ReLU '
        f'(227 - 11 + 2*0)/4 + 1 = 55 34,944 {conv1:,}',
        f'NORM1 55x55x96 {norm}',
        f'MAX POOL1 27x27x96 {pool} (55 - 3)/2 + 1 = 27',
        'CONV2 27x27x256 256 filters 5x5x96, stride 1, pad 2, ReLU '
        f'(27 - 5 + 2*2)/1 + 1 = 27 614,656 {conv2:,}',
        f'NORM2 27x27x256 {norm}',
        f'MAX POOL2 13x13x256 {pool} (27 - 3)/2 + 1 = 13',
        'CONV3 13x13x384 384 filters 3x3x256, stride 1, pad 1, ReLU '
        f'(13 - 3 + 2*1)/1 + 1 = 13 885,120 {conv3:,}',
        'CONV4 13x13x384 384 filters 3x3x384, stride 1, pad 1, ReLU '
        f'(13 - 3 + 2*1)/1 + 1 = 13 1,327,488 {conv4:,}',
        'CONV5 13x13x256 256 filters 3x3x384, stride 1, pad 1, ReLU '
        f'(13 - 3 + 2*1)/1 + 1 = 13 884,992 {conv5:,}',
        f'MAX POOL3 6x6x256 {pool} (13 - 3)/2 + 1 = 6',
        f'FC6 4096 W 4096x9216, ReLU, dropout 0.5 6*6*256 = 9216 37,752,832 {fc6:,}',
        f'FC7 4096 W 4096x4096, ReLU, dropout 0.5 16,781,312 {fc7:,}',
        f'FC8 1000 W 1000x4096, softmax 4,097,000 {fc8:,}',
        f'total 62,378,344 {total:,}',
        '62,378,344 parameters take 249.5 MB in float32',  # 4 bytes each
    ]


def test_towers_see_half_of_the_channels():
    lines = lines_of('paper')
    assert (
        'CONV2 27x27x256 256 filters 5x5x48, stride 1, pad 2, 2 groups, ReLU '
        f'(27 - 5 + 2*2)/1 + 1 = 27 307,456 {27 * 27 * 256 * 5 * 5 * 48:,}'
    ) in lines
    assert 'NORM1 55x55x96 5 channels, k=2, alpha=0.0001, beta=0.75, 2 groups' in lines
    assert '60,965,224 parameters take 243.9 MB in float32' in lines


def test_layers_that_only_a_relative_has():
    lines = lines_of('source_2012', 'sigmoid')
    assert (
        'CONV1 55x55x96 96 filters 11x11x3, stride 4, pad 0/3 (224 - 11 + 0 + 3)/4 + 1 = 55 '
        f'34,944 {55 * 55 * 96 * 11 * 11 * 3:,}'
    ) in lines
    assert 'NORM3 27x27x256 5x5 pixels, k=1, alpha=4e-05, beta=0.75' in lines
    assert 'MAX POOL3 6x6x256 3x3, stride 2 (overlapping), sigmoid (13 - 3)/2 + 1 = 6' in lines
    scaling = 'SCALE1 224x224x3 less 123.7 116.3 103.5, over 58.4 57.1 57.4'
    assert scaling in lines_of('torchvision')
    assert 'SCALE1 227x227x3 over 256.0 256.0 256.0' in lines_of('alexnet_bn')


def test_fully_connected_layers_in_towers():
    lines = lines_of('paper', 'no_tower_communication')
    work = 8192 * 6 * 6 * 128  # each of 8,192 features sees one tower's half of 256 channels
    assert (
        f'FC6 8192 W 8192x4608, 2 groups, ReLU, dropout 0.5 6*6*128 = 4608 {work + 8192:,} {work:,}'
    ) in lines
    assert f'FC7 4096 W 4096x4096, 2 groups, ReLU, dropout 0.5 {4096 * 4097:,} {4096 * 4096:,}' in (
        lines
    )


def test_ceil_mode_rounds_up_and_a_relu_after_its_pool_shares_its_row():
    lines = lines_of('cifar10_18pct', num_classes=10)
    assert (
        'MAX POOL1 16x16x32 3x3, stride 2 (overlapping), over the edge, ReLU '
        'ceil((32 - 3)/2) + 1 = 16'
    ) in lines
    assert 'NORM1 16x16x32 3x3 pixels, k=1, alpha=5.55556e-06, beta=0.75' in lines
    assert 'FC10 10 W 10x1024, softmax 4*4*64 = 1024 10,250 10,240' in lines
    assert '89,578 parameters take 0.4 MB in float32' in lines


def test_windows_that_do_not_reach_the_edge_round_down():
    assert (
        'MAX POOL1 11x11x24 3x3, stride 2 (overlapping) floor((24 - 3)/2) + 1 = 11'
    ) in lines_of('digits')


def test_local_filters_and_means_of_the_whole_window():
    lines = lines_of('cifar10_13pct', num_classes=10)
    assert (
        'LOCAL3 6x6x32 32 local filters 3x3x64, stride 1, pad 1, ReLU '
        f'(6 - 3 + 2*1)/1 + 1 = 6 {6 * 6 * 32 * 577:,} {6 * 6 * 32 * 576:,}'
    ) in lines
    assert (
        'AVG POOL2 8x8x32 3x3, stride 2 (overlapping), over the edge (divided by 9) '
        'ceil((16 - 3)/2) + 1 = 8'
    ) in lines_of('cifar10_18pct', 'full_window_average', num_classes=10)
    for edit, words in {'leaky_relu': 'LeakyReLU 0.01', 'elu': 'ELU 1'}.items():
        line = f'FC64 64 W 64x1024, {words}, dropout 0.5 4*4*64 = 1024 65,600 65,536'
        assert line in lines_of('cifar10_80sec', 'dropout', edit, num_classes=10)


def test_edits_are_named_and_applied():
    lines = lines_of('course', 'no_lrn', 'no_dropout', 'non_overlapping_pool', 'tanh')
    assert lines[0] == 'course, no_lrn, no_dropout, non_overlapping_pool, tanh'
    assert 'MAX POOL1 27x27x96 2x2, stride 2 floor((55 - 2)/2) + 1 = 27' in lines
    assert f'FC7 4096 W 4096x4096, tanh 16,781,312 {4096 * 4096:,}' in lines
    assert not [line for line in lines if 'NORM' in line or 'ReLU' in line]


@pytest.mark.parametrize('variant', VARIANTS)
def test_columns_are_aligned_and_fit(variant):
    config = default_config()
    config.variant, config.image_size = variant, IMAGE_SIZES[variant]
    for edits in [(), *((edit,) for edit in EDITS)]:
        config.edits = edits
        _, header, *body, total, _ = summary(config).splitlines()
        assert max(map(len, [header, *body])) <= 142
        assert len(total) == len(header)  # right-aligned counts
        for start in map(header.index, ('output', 'definition', 'formula')):
            assert {line[start - 1 : start] for line in body} <= {' ', ''}


# The command


def test_command_prints_the_summary(call, tmp_path):
    recipe = tmp_path / 'recipe.py'
    recipe.write_text('from alexnet_jax.config import default_config as get_config\n')
    config = default_config()
    config.edits = ('no_lrn',)
    found = call(command, f'--config={recipe}', "--config.edits=('no_lrn',)")
    assert found == (0, summary(config) + '\n', '')


def test_command_without_config(call):
    assert call(command) == (2, '', 'error: pass --config=configs/NAME.py\n')


def test_command_with_an_argument(call):
    code, _, err = call(command, f'--config={ROOT}/configs/quickstart.py', 'extra')
    assert code == 2
    assert_has(err, "'extra'", '--flag=value')
