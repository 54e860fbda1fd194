import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from helpers import encode
from PIL import Image

from alexnet_jax.data.ops.chain import KNOWN, parse, read_image
from alexnet_jax.data.ops.color import Color, PCAShift
from alexnet_jax.data.ops.image import BadImage, Op, require_size
from alexnet_jax.errors import BadInput, RunError

RNG = np.random.RandomState(0)


def picture(height, width):
    return RNG.randint(0, 256, (height, width, 3)).astype(np.uint8)


def run(ops, pixels, index=0, epoch=0, seed=0):
    """Return what the ops make of an image, eagerly."""
    return parse(ops)(encode(pixels), seed, epoch, index)[0].numpy()


def run_many(ops, pixels, count, epoch=0, axes=None):
    """Return (images, colors) of the examples 0 .. count - 1 of one image, inside tf.data."""
    preprocess, encoded = parse(ops), encode(pixels)
    dataset = tf.data.Dataset.range(count).map(lambda i: preprocess(encoded, 0, epoch, i, axes))
    images, colors = zip(*dataset.as_numpy_iterator(), strict=True)
    return np.stack(images), Color(*map(np.stack, zip(*colors, strict=True)))


class TestParse:
    @pytest.mark.parametrize(
        'piece',
        [
            *('', 'rotate(3)', 'center_crop', 'center_crop()', 'center_crop(1, 2)', 'decode(slow)'),
            *('center_crop(0)', 'center_crop(-3)', 'center_crop(2.5)', "center_crop('a')"),
            *('center_crop(True)', 'center_crop(size=3)', 'center_crop(3', 'center_crop(3)(4)'),
            *('center_crop(__import__("os"))', 'random_mirror(1)', 'pca_shift(0)', 'resize(1,2,3)'),
            *('pca_shift(1e999)', 'resize_short(fast)', 'center_crop 3', 'center_crop(*[3])'),
            *('resize(antialias)', 'resize(3, true)', 'resize_short(9, antialias, antialias)'),
            *('torchvision(9)', 'center_crop(3, antialias)', 'resize_short(antialias, 9)'),
            *('center_crop(1 if 1 else 2)', 'center_crop(3)\n|', 'decode.x', 'center_crop(9**9)'),
        ],
    )
    def test_malformed_lists_the_ops(self, piece):
        with pytest.raises(BadInput, match=r'allowed: decode or decode\(fast\) or .*pca_shift'):
            parse(f'decode|{piece}')

    @pytest.mark.parametrize(
        ('piece', 'reason'),
        [
            ('center_crop(0)', '0 is not a positive integer'),
            ('resize(3, 2.5)', '2.5 is not an integer'),
            ('center_crop(True)', 'True is not an integer'),
            ('pca_shift(0)', '0 is not a positive number'),
            ('pca_shift(1e999)', 'inf is not a positive number'),
            ('pca_shift(x)', "'x' is not a number"),
            ('decode(slow)', "'slow' is not one of fast, stored"),
        ],
    )
    def test_a_bad_argument_is_named(self, piece, reason):
        with pytest.raises(BadInput, match=rf'does not match .*: {reason}; allowed: '):
            parse(f'decode|{piece}')

    @pytest.mark.parametrize('ops', ['center_crop(3)', 'center_crop(3)|decode', 'decode|decode'])
    def test_decode_comes_first_and_once(self, ops):
        with pytest.raises(BadInput, match='decode must be the first op and appear only once'):
            parse(ops)

    def test_ten_crop_comes_last(self):
        with pytest.raises(BadInput, match='ten_crop must be the last'):
            parse('decode|ten_crop(3)|resize(2)')

    def test_spaces_are_allowed(self):
        assert parse(' decode | resize( 3, 4 ) ') == parse('decode|resize(3,4)')

    def test_prefix_ends_before_the_first_random_image_op(self):
        preprocess = parse('decode|pca_shift(0.1)|resize_short(9)|random_mirror|center_crop(8)')
        assert preprocess.prefix == parse('decode|resize_short(9)')
        assert preprocess.fixes_size
        assert not preprocess.prefix.fixes_size
        assert [op.name for op in preprocess.random_ops] == ['random_mirror', 'pca_shift']

    def test_at_most_one_color_op(self):
        with pytest.raises(BadInput, match=r'at most one color op .*pca_shift, color_noise'):
            parse('decode|pca_shift(0.1)|random_mirror|color_noise(0.1, 67)')

    @pytest.mark.parametrize('name', KNOWN)
    def test_each_signature_begins_with_the_name_and_lists_the_arguments(self, name):
        op = KNOWN[name]
        fields = [f for f in dataclasses.fields(op) if f.name != 'max_pixels']
        *_, longest = op.signature.split(' or ')
        assert op.name == name
        assert longest.startswith(name)
        assert longest.count(',') + ('(' in longest) == len(fields)

    def test_a_new_op_is_a_class_and_an_entry(self, monkeypatch):
        monkeypatch.setitem(KNOWN, 'invert', Invert)
        pixels = picture(4, 5)
        np.testing.assert_array_equal(run('decode|invert', pixels), 255 - pixels)
        np.testing.assert_array_equal(run('decode|invert(100)', pixels), 100 - pixels)
        with pytest.raises(BadInput, match=r'does not match invert or invert\(N\); allowed: '):
            parse('decode|invert(1, 2)')


@dataclasses.dataclass(frozen=True)
class Invert(Op):
    """Subtract the image from N."""

    name = 'invert'
    signature = 'invert or invert(N)'
    level: int = 255

    def __call__(self, image, seed):
        return tf.cast(self.level, tf.uint8) - image


class TestSizes:
    @pytest.mark.parametrize(
        ('size', 'expected'),
        [
            ((500, 375), (341, 256)),  # 341.33
            ((375, 500), (256, 341)),
            ((100, 150), (256, 384)),
            ((10, 13), (256, 333)),  # 332.8
            ((7, 7), (256, 256)),
        ],
    )
    def test_resize_short(self, size, expected):
        assert run('decode|resize_short(256)', picture(*size)).shape == (*expected, 3)

    def test_resize_by_two_averages_by_hand(self):
        pixels = np.zeros((1, 2, 3), np.uint8)
        pixels[0, 1] = 100
        # half-pixel centers: samples at -1/4, 1/4, 3/4, 5/4 of the way from 0 to 100
        found = run('decode|resize(1, 4)', pixels)
        np.testing.assert_array_equal(found[0, :, 0], [0, 25, 75, 100])

    def test_resize_of_the_same_size_changes_nothing(self):
        pixels = picture(9, 9)
        np.testing.assert_array_equal(run('decode|resize(9)', pixels), pixels)

    def test_antialias_averages_what_it_shrinks_by_hand(self):
        pixels = np.zeros((1, 8, 3), np.uint8)
        pixels[0, 3] = 160
        # A triangle that reaches 4 pixels to each side of the new centers at 2 and 6. The first
        # covers 6 pixels, whose centers 0.5 ... 5.5 weigh 2.5, 3.5, 3.5, 2.5, 1.5, 0.5: 14.
        found = run('decode|resize(1, 2, antialias)', pixels)
        np.testing.assert_array_equal(found[0, :, 0], [29, 17])  # 160 * 2.5 / 14, 160 * 1.5 / 14
        # Without it, only the two pixels around a center count: 1 and 2, and 5 and 6.
        np.testing.assert_array_equal(run('decode|resize(1, 2)', pixels)[0, :, 0], [0, 0])

    @pytest.mark.parametrize('size', [(60, 41), (41, 60), (300, 200), (21, 20), (10, 9)])
    def test_antialias_is_pillows(self, size):
        pixels = picture(*size)
        for ops, (height, width) in {
            'resize(20, antialias)': (20, 20),
            'resize(30, 15, antialias)': (30, 15),
            'resize_short(20, antialias)': [round(20 * side / min(size)) for side in size],
        }.items():
            resized = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
            difference = np.abs(run(f'decode|{ops}', pixels) - np.asarray(resized).astype(int))
            assert difference.max() <= 1

    def test_antialias_is_off_unless_written(self):
        pixels = picture(50, 61)
        plain = tf.cast(tf.round(tf.image.resize(pixels, [20, 20])), tf.uint8).numpy()
        np.testing.assert_array_equal(run('decode|resize(20)', pixels), plain)
        assert (run('decode|resize(20, antialias)', pixels) != plain).any()

    def test_narrow_strip_is_refused(self):
        with pytest.raises(BadImage, match=r'1 x 60000 pixels, too narrow.* 256 x 15360000'):
            run('decode|resize_short(256)', np.zeros((1, 60_000, 3), np.uint8))

    def test_center_crop(self):
        pixels = picture(10, 13)
        np.testing.assert_array_equal(run('decode|center_crop(7)', pixels), pixels[1:8, 3:10])

    @pytest.mark.parametrize('op', ['center_crop', 'random_crop', 'ten_crop'])
    def test_crop_larger_than_the_image(self, op):
        message = rf'6 x 9 pixels, smaller than {op}\(7\)'
        with pytest.raises(BadImage, match=message):
            run(f'decode|{op}(7)', picture(6, 9))

    def test_ten_crop_order(self):
        pixels = picture(6, 9)
        crops = [pixels[:4, :4], pixels[:4, 5:], pixels[2:, :4], pixels[2:, 5:], pixels[1:5, 2:6]]
        expected = np.stack(crops + [crop[:, ::-1] for crop in crops])
        np.testing.assert_array_equal(run('decode|ten_crop(4)', pixels), expected)

    def test_require_size(self):
        assert require_size(tf.zeros([10, 4, 5, 3]), 4, 5).shape == (10, 4, 5, 3)
        with pytest.raises(BadImage, match=r'is 4 x 5, but .* 4 x 4; .*resize\(4\)'):
            require_size(tf.zeros([4, 5, 3]), 4, 4)


class TestRandomness:
    @pytest.mark.slow
    def test_eager_equals_tf_data(self):
        ops = 'decode|resize_short(20)|random_crop(16)|random_mirror|pad_crop(2)|pca_shift(0.1)'
        pixels, axes = picture(25, 30), np.diag([1.0, 2.0, 3.0]).astype(np.float32)
        images, colors = run_many(ops, pixels, 8, epoch=3, axes=axes)
        for index in range(8):
            image, color = parse(ops)(encode(pixels), 0, 3, index, axes)
            np.testing.assert_array_equal(images[index], image)
            np.testing.assert_array_equal(colors.shift[index], color.shift)

    @pytest.mark.parametrize('name', ['seed', 'epoch', 'index'])
    def test_depends_on_seed_epoch_and_index_alone(self, name):
        pixels = picture(64, 64)

        def crop(value):
            return run('decode|random_crop(8)', pixels, **{name: value})

        np.testing.assert_array_equal(crop(1), crop(1))
        assert len({crop(value).tobytes() for value in range(8)}) >= 7

    @pytest.mark.slow
    def test_random_crop_is_a_slice_and_covers_every_offset(self):
        # pixel (y, x) says where it is, so that a crop's first pixel says its offset
        y, x = np.mgrid[:256, :256]
        pixels = np.stack([y, x, np.zeros_like(y)], -1).astype(np.uint8)
        images, _ = run_many('decode|random_crop(227)', pixels, 600)
        offsets = images[:, 0, 0, :2]
        assert set(offsets[:, 0]) == set(offsets[:, 1]) == set(range(30))
        # the two sides are drawn apart: correlation of 600 draws is below 4 / sqrt(600)
        assert abs(np.corrcoef(offsets.T)[0, 1]) < 0.16
        top, left = offsets[0]
        np.testing.assert_array_equal(images[0], pixels[top : top + 227, left : left + 227])

    def test_mirror_is_a_fair_coin(self):
        pixels = picture(2, 3)
        images, _ = run_many('decode|random_mirror', pixels, 1000)
        mirrored = (images == pixels[:, ::-1]).all((1, 2, 3))
        assert ((images == pixels).all((1, 2, 3)) ^ mirrored).all()
        assert 430 < mirrored.sum() < 570  # 500, 4.4 standard deviations of 15.8

    def test_places_in_the_string_do_not_share_numbers(self):
        # were two mirrors to share a coin, they would cancel every time
        pixels = picture(2, 3)
        images, _ = run_many('decode|random_mirror|random_mirror', pixels, 200)
        assert 60 < (images == pixels).all((1, 2, 3)).sum() < 140

    def test_mirror_is_independent_of_the_crop_before_it(self):
        pixels = np.tile(np.arange(64, dtype=np.uint8)[None, :, None], (64, 1, 3))
        images, _ = run_many('decode|random_crop(33)|random_mirror', pixels, 400)
        row = images[:, 0, :, 0].astype(int)
        mirrored, left = row[:, 0] > row[:, -1], row.min(1)
        assert abs(np.corrcoef(mirrored, left)[0, 1]) < 0.2  # 4 / sqrt(400)

    def test_pad_crop(self):
        pixels = picture(5, 6)
        padded = np.pad(pixels, ((2, 2), (2, 2), (0, 0)))
        expected = {padded[y : y + 5, x : x + 6].tobytes() for y in range(5) for x in range(5)}
        images, _ = run_many('decode|pad_crop(2)', pixels, 300)
        assert {image.tobytes() for image in images} == expected


class TestPCAShift:
    def test_none_without_the_op(self):
        image, color = parse('decode')(encode(picture(3, 3)))
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(color.shift, np.zeros(3, np.float32))
        assert color.scale == 1

    @pytest.mark.slow
    def test_mean_and_covariance(self):
        rotation = np.linalg.qr(RNG.randn(3, 3))[0]
        variances = np.array([10.0, 200.0, 3000.0])
        axes = (rotation * np.sqrt(variances)).astype(np.float32)
        dataset = tf.data.Dataset.range(20_000).map(
            lambda i: PCAShift(0.1)(axes, tf.stack([tf.zeros([], tf.int64), i]), 0).shift
        )
        shifts = next(dataset.batch(20_000).as_numpy_iterator())
        # In the axes' own coordinates: independent, variance sigma^2 lambda.
        along = shifts @ rotation / np.sqrt(variances) / 0.1
        assert np.abs(along.mean(0)).max() < 0.035  # 5 / sqrt(20,000)
        np.testing.assert_allclose(np.cov(along.T), np.eye(3), atol=0.05)
        # And by hand: P diag(lambda) P^T sigma^2.
        np.testing.assert_allclose(
            np.cov(shifts.T), rotation @ np.diag(variances) @ rotation.T * 0.01, atol=1.5
        )

    def test_image_is_not_touched(self):
        pixels = picture(3, 4)
        images, color = run_many('decode|pca_shift(0.1)', pixels, 2, axes=np.eye(3, dtype='f4'))
        np.testing.assert_array_equal(images, np.stack([pixels, pixels]))
        assert (color.shift != 0).all()
        assert (color.shift[0] != color.shift[1]).all()
        assert (color.scale == 1).all()


class TestColorPlace:
    """The color op counts as a place, its own and for the ops after it: recorded runs drew so."""

    @pytest.mark.parametrize(
        ('ops', 'offset', 'shift'),
        [
            ('pca_shift(0.1)|random_crop(8)', (24, 20), (-0.05711125, -0.08512228, -0.09438977)),
            ('random_crop(8)|pca_shift(0.1)', (12, 29), (0.21105388, -0.04875461, -0.01765444)),
            (
                'random_crop(8)|color_noise(0.1, 9)|random_crop(4)',
                (14, 33),
                (0.21105388, -0.04875461, -0.01765444),
            ),
        ],
    )
    def test_recorded_draws(self, ops, offset, shift):
        y, x = np.mgrid[:40, :40]
        encoded = encode(np.stack([y, x, y], -1).astype(np.uint8))
        image, color = parse(f'decode|{ops}')(encoded, 3, 2, 5, np.eye(3, dtype='f4'))
        assert tuple(image[0, 0, :2].numpy()) == offset
        np.testing.assert_allclose(color.shift, shift, rtol=1e-5)

    @pytest.mark.parametrize('place', [1, 2, 3])
    def test_seeds_are_folded_in_by_place(self, place):
        names = ['decode', 'resize(9)', 'resize(9)']
        names.insert(place, 'pca_shift(0.1)')
        axes = np.eye(3, dtype='f4')
        _, color = parse('|'.join(names))(encode(picture(9, 9)), 7, 1, 4, axes)
        fold_in = tf.random.experimental.stateless_fold_in
        example_seed = fold_in(tf.constant([7, 1], tf.int64), tf.constant(4, tf.int64))
        expected = 0.1 * tf.random.stateless_normal([3], fold_in(example_seed, place))

        np.testing.assert_allclose(color.shift, expected, rtol=1e-6)

    @pytest.mark.slow
    def test_ops_after_it_draw_as_if_an_image_op_stood_there(self):
        pixels = picture(40, 40)
        axes = np.eye(3, dtype='f4')
        after, _ = run_many('decode|pca_shift(0.1)|random_crop(8)', pixels, 5, axes=axes)
        same, _ = run_many('decode|resize(40)|random_crop(8)', pixels, 5)
        first, _ = run_many('decode|random_crop(8)|pca_shift(0.1)', pixels, 5, axes=axes)
        np.testing.assert_array_equal(after, same)
        assert (after != first).any()


class TestColorNoise:
    """The 2012 source's: pca_shift, then a division by 1.1, and neither from epoch 67 on."""

    def test_as_pca_shift_and_divided(self):
        axes = np.diag([1.0, 2.0, 3.0]).astype('f4')
        _, color = run_many('decode|color_noise(0.1, 67)', picture(3, 4), 5, epoch=66, axes=axes)
        _, plain = run_many('decode|pca_shift(0.1)', picture(3, 4), 5, epoch=66, axes=axes)
        np.testing.assert_array_equal(color.shift, plain.shift)
        np.testing.assert_allclose(color.scale, 1 / 1.1, rtol=1e-6)

    def test_switched_off(self):
        axes = np.eye(3, dtype='f4')
        for epoch in (67, 90):
            _, color = run_many('decode|color_noise(0.1, 67)', picture(3, 4), 2, epoch, axes)
            assert not color.shift.any()
            assert (color.scale == 1).all()


class TestReadImage:
    def test_pixels(self, tmp_path):
        pixels = picture(6, 9)
        (tmp_path / 'a.png').write_bytes(encode(pixels))
        found = read_image(tmp_path / 'a.png', 'decode|center_crop(4)')
        np.testing.assert_array_equal(found, pixels[1:5, 2:6])

    def test_errors_name_the_file(self, tmp_path):
        with pytest.raises(BadInput, match=r'none.png cannot be read: No such file'):
            read_image(tmp_path / 'none.png', 'decode')
        (tmp_path / 'bad.jpg').write_bytes(encode(picture(9, 9), 'JPEG')[:300])
        with pytest.raises(RunError, match=r'bad.jpg cannot be used: [^{}]*$') as error:
            read_image(tmp_path / 'bad.jpg', 'decode')
        assert 'Op:' not in str(error.value)
