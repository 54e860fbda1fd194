"""The named edits: which layers of a table they change, and how."""

import pytest
from tables import IMAGE_SIZES, count

from alexnet_jax.model.edits import EDITS
from alexnet_jax.model.layers import (
    ELU,
    LRN,
    AvgPool,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    LeakyReLU,
    Local,
    MaxPool,
    ReLU,
    Sigmoid,
    Tanh,
    WithinChannelLRN,
)
from alexnet_jax.model.shapes import check_shapes, layer_infos
from alexnet_jax.model.variants import VARIANTS, build


def kinds(table) -> list[type]:
    return [type(layer) for layer in table]


def test_no_edit_leaves_the_table_as_it_is():
    assert build('course', (), 1000) == VARIANTS['course']


def edited(variant: str, edit: str) -> list[tuple]:
    """(old, new) for each layer that an edit changes."""
    before, after = VARIANTS[variant], EDITS[edit](VARIANTS[variant])
    return [(old, new) for old, new in zip(before, after, strict=True) if old != new]


@pytest.mark.parametrize(
    ('edit', 'variant', 'gone'),
    [
        ('no_lrn', 'course', [LRN, LRN]),
        ('no_lrn', 'source_2012', [LRN, LRN, WithinChannelLRN]),
        ('no_lrn', 'cifar10_18pct', [WithinChannelLRN, WithinChannelLRN]),
        ('no_lrn', 'torchvision', []),
        ('no_dropout', 'course', [Dropout, Dropout]),
        ('no_dropout', 'cifar10_80sec', []),
    ],
)
def test_edits_that_remove_layers(edit, variant, gone):
    table = VARIANTS[variant]
    after = EDITS[edit](table)
    assert [type(layer) for layer in table if isinstance(layer, tuple(gone))] == gone
    assert [layer for layer in table if not isinstance(layer, tuple(gone))] == list(after)


def test_non_overlapping_pool():
    assert [new for _, new in edited('course', 'non_overlapping_pool')] == [MaxPool(2, 2)] * 3
    # 55 -> 27 -> 13 -> 6, as with overlap: the counts do not change.
    for variant in ('course', 'source_2012'):
        table, size = VARIANTS[variant], IMAGE_SIZES[variant]
        after = EDITS['non_overlapping_pool'](table)
        assert [r.output for r in layer_infos(after, size)] == [
            r.output for r in layer_infos(table, size)
        ]


def test_non_overlapping_average_pools():
    """32 -> 16 -> 8 -> 4 as before, but no window hangs over the edge any more."""
    after = EDITS['non_overlapping_pool'](VARIANTS['cifar10_18pct'])
    pools = [row for row in layer_infos(after, 32) if isinstance(row.layer, MaxPool | AvgPool)]
    assert [type(row.layer) for row in pools] == [MaxPool, AvgPool, AvgPool]
    assert [(row.layer.window, row.layer.stride) for row in pools] == [(2, 2)] * 3
    assert [row.output[0] for row in pools] == [16, 8, 4]


def test_average_pool():
    assert edited('course', 'average_pool') == [(MaxPool(3, 2), AvgPool(3, 2))] * 3
    assert edited('cifar10_18pct', 'average_pool') == [
        (MaxPool(3, 2, ceil_mode=True), AvgPool(3, 2, ceil_mode=True))
    ]


def test_max_pool():
    assert edited('course', 'max_pool') == []
    pools = AvgPool(3, 2, ceil_mode=True), MaxPool(3, 2, ceil_mode=True)
    assert edited('cifar10_18pct', 'max_pool') == [pools] * 2


def test_full_window_average():
    pools = AvgPool(3, 2, True), AvgPool(3, 2, True, count_include_pad=True)
    assert edited('cifar10_18pct', 'full_window_average') == [pools] * 2


OTHERS = {
    'tanh': Tanh(),
    'sigmoid': Sigmoid(),
    'leaky_relu': LeakyReLU(0.01),
    'elu': ELU(1.0),
}


@pytest.mark.parametrize('edit', OTHERS)
def test_other_nonlinearities(edit):
    assert edited('course', edit) == [(ReLU(), OTHERS[edit])] * 7
    assert build('lenet5', (edit, 'relu'), 10) == build('lenet5', ('relu',), 10)


def test_relu():
    assert edited('course', 'relu') == []
    assert edited('lenet5', 'relu') == [(Tanh(), ReLU())] * 4


def test_dropout_follows_the_nonlinearity_of_hidden_features():
    after = EDITS['dropout'](VARIANTS['cifar10_80sec'])
    assert kinds(after)[-4:] == [Dense, ReLU, Dropout, Dense]
    assert after[-2] == Dropout(0.5, scale_at_test=True)
    assert EDITS['no_dropout'](after) == VARIANTS['cifar10_80sec']
    for variant in ('course', 'cifar10_18pct', 'cifar10_13pct'):  # has it, or nothing to drop
        assert edited(variant, 'dropout') == []
    after = build('torchvision', ('dropout',), 10)  # whose dropout precedes fc6 and fc7
    assert kinds(after)[-8:] == [Dropout, Dense, ReLU, Dropout, Dense, ReLU, Dropout, Dense]


def test_without_conv4():
    """384 filters of 3 x 3 x 192 go; conv5 sees the 384 of conv3, as before."""
    after = EDITS['without_conv4'](VARIANTS['paper'])
    names = ['conv1', 'conv2', 'conv3', 'conv5', 'fc6', 'fc7', 'fc8']
    assert [layer.name for layer in after if isinstance(layer, Conv | Dense)] == names
    assert kinds(after).count(ReLU) == kinds(VARIANTS['paper']).count(ReLU) - 1
    assert count(after, 227) == 60_965_224 - 384 * (3 * 3 * 192 + 1)
    bn = EDITS['without_conv4'](VARIANTS['alexnet_bn'])
    norms = [layer.name for layer in bn if isinstance(layer, BatchNorm)]
    assert norms == ['bn2', 'bn3', 'bn5']
    assert edited('cifar10_80sec', 'without_conv4') == []


def test_one_tower_turns_the_papers_kernels_into_the_course_nets():
    after = EDITS['one_tower'](VARIANTS['paper'])
    assert count(after, 227) == 62_378_344
    assert {layer.groups for layer in after if isinstance(layer, Conv | LRN | Dense)} == {1}
    apart = build('paper', ('no_tower_communication', 'one_tower'), 1000)
    assert {layer.groups for layer in apart if isinstance(layer, Conv | LRN | Dense)} == {1}


def test_no_tower_communication_is_net_150():
    """layers-150.cfg, in each tower: 48, 160, 192, 192, 128 filters, 4,096 and 2,048 features."""
    after = build('source_2012', ('no_tower_communication',), 1000)
    by_hand = 2 * (
        48 * (11 * 11 * 3 + 1)
        + 160 * (5 * 5 * 48 + 1)
        + 192 * (3 * 3 * 160 + 1)
        + 192 * (3 * 3 * 192 + 1)
        + 128 * (3 * 3 * 192 + 1)
        + 4096 * (6 * 6 * 128 + 1)
        + 2048 * (4096 + 1)
    ) + 1000 * (4096 + 1)
    assert count(after, 224) == by_hand == 60_714_408
    groups = [layer.groups for layer in after if isinstance(layer, Conv | Dense)]
    assert groups == [1, 2, 2, 2, 2, 2, 2, 1]
    after = EDITS['no_tower_communication'](VARIANTS['bvlc'])  # whose norms saw both towers
    assert {layer.groups for layer in after if isinstance(layer, LRN)} == {2}


def test_half_width():
    after = EDITS['half_width'](VARIANTS['paper'])
    by_hand = (
        48 * (11 * 11 * 3 + 1)
        + 128 * (5 * 5 * 24 + 1)
        + 192 * (3 * 3 * 128 + 1)
        + 192 * (3 * 3 * 96 + 1)
        + 128 * (3 * 3 * 96 + 1)
        + 2048 * (6 * 6 * 128 + 1)
        + 2048 * (2048 + 1)
        + 1000 * (2048 + 1)
    )
    assert count(after, 227) == by_hand


def test_half_width_of_local_filters():
    after = EDITS['half_width'](VARIANTS['cifar10_13pct'])
    filters = [layer.filters for layer in after if isinstance(layer, Conv | Local)]
    assert filters == [32, 32, 16, 16]


def test_he_init():
    for variant in ('course', 'torchvision'):  # torchvision's table does not start with conv1
        changed = [new for _, new in edited(variant, 'he_init')]
        names = ['conv2', 'conv3', 'conv4', 'conv5', 'fc6', 'fc7']
        assert [layer.name for layer in changed] == names
        assert {(layer.std, layer.bias) for layer in changed} == {('he', 0.0)}
    changed = [new.name for _, new in edited('cifar10_13pct', 'he_init')]
    assert changed == ['conv2', 'local3', 'local4']


def test_edits_apply_in_order():
    assert kinds(build('course', ('no_lrn', 'no_dropout', 'tanh'), 1000)) == [
        Conv, Tanh, MaxPool, Conv, Tanh, MaxPool, Conv, Tanh, Conv, Tanh, Conv, Tanh, MaxPool,
        Dense, Tanh, Dense, Tanh, Dense,
    ]  # fmt: skip


@pytest.mark.parametrize('edit', EDITS)
@pytest.mark.parametrize('variant', VARIANTS)
def test_every_edit_of_every_variant_fits_its_image(variant, edit):
    check_shapes(build(variant, (edit,), 10), IMAGE_SIZES[variant])
