"""A trained net against values by hand: fully connected layers on images of a single pixel."""

import dataclasses
import sys
from math import log

import numpy as np
import pytest
from jax import lax
from PIL import Image
from trained_runs import save_run

import alexnet_jax
from alexnet_jax.config import default_config
from alexnet_jax.data import statistics
from alexnet_jax.errors import BadInput, RunError
from alexnet_jax.evaluation import steps, trained
from alexnet_jax.model import variants
from alexnet_jax.model.layers import BatchNorm, Conv, Dense, Dropout, MaxPool, ReLU
from alexnet_jax.parallel import pmap
from alexnet_jax.run import saved

NAMES = ['ant', 'bee', 'cat']
TABLE = (
    Dense('fc6', 2), ReLU(),
    Dense('fc7', 2), ReLU(), Dropout(0.5, scale_at_test=True),
    Dense('fc8', 4),
)  # fmt: skip
# Of the pixel (2, 1, 0): fc6 gives (2, -2), fc7 (2, -2), which becomes (2, 0) and then (1, 0), and
# fc8 (log 3, log 2, 0, log 2): the classes have 3/8, 2/8, 1/8, and the fourth output, 2/8, no name.
PIXEL = np.uint8([2, 1, 0]).reshape(1, 1, 3)
PARAMS = {
    'fc6': {'kernel': [[1, 0], [0, 1], [0, 0]], 'bias': [0, -3]},
    'fc7': {'kernel': [[1, 1], [7, 7]], 'bias': [0, -4]},
    'fc8': {'kernel': [[log(3), log(2), 0, log(2)], [7, 7, 7, 7]], 'bias': [0, 0, 0, 0]},
}
PARAMS = {
    name: {key: np.float32(value) for key, value in layer.items()} for name, layer in PARAMS.items()
}


@pytest.fixture
def make_run(tmp_path, monkeypatch):
    """make_run({'data.mean': ...}, ...) -> the workdir of a run."""

    def make(values=None, table=TABLE, params=PARAMS, scores=((10, 0.5),), **collections):
        monkeypatch.setitem(variants.VARIANTS, 'tiny', table)
        config = default_config()
        config.variant, config.num_classes, config.image_size = 'tiny', 4, 1
        config.data.mean = 'none'
        config.update_from_flattened_dict(values or {})
        variables = {'params': params, **collections}
        nets = {step: (variables, top1) for step, top1 in scores}
        save_run(tmp_path / 'run', config, NAMES, nets)
        return tmp_path / 'run'

    return make


def softmax(pixels) -> np.ndarray:
    """The probabilities of the net above in float64; pixels [n, 3]."""
    x = pixels.astype(np.float64)
    for name, scale in (('fc6', 1), ('fc7', 0.5)):
        x = scale * np.maximum(x @ PARAMS[name]['kernel'] + PARAMS[name]['bias'], 0)
    powers = np.exp(x @ PARAMS['fc8']['kernel'])
    return powers / powers.sum(1, keepdims=True)


def random_pixels(count, seed=0) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 6, (count, 1, 1, 3), np.uint8)


# Loading


def test_load(make_run):
    folder = make_run(scores=[(10, 0.5), (20, 0.75), (30, 0.25)])
    net = alexnet_jax.load(folder)
    assert (net.workdir, net.step, net.class_names) == (str(folder), 20, NAMES)
    assert (net.config.variant, net.model.layers[:-1]) == ('tiny', TABLE[:-1])
    assert repr(net) == f"TrainedNet(workdir='{folder}', step=20)"
    assert net.params.keys() == PARAMS.keys()
    for name, layer in PARAMS.items():
        np.testing.assert_array_equal(net.params[name]['kernel'], layer['kernel'])
    assert alexnet_jax.load(folder, step=30).step == 30
    with pytest.raises(BadInput, match=r'no checkpoint of step 7; it has 30, 20, 10 \(best: 20'):
        alexnet_jax.load(folder, step=7)


def test_no_run_and_no_checkpoint(make_run, tmp_path):
    with pytest.raises(BadInput, match='nowhere holds no run'):
        alexnet_jax.load(tmp_path / 'nowhere')
    with pytest.raises(RunError, match='run has no checkpoint'):
        alexnet_jax.load(make_run(scores=()))


def test_a_corrupt_checkpoint_is_an_error_and_stays(make_run):
    folder = make_run()
    path = folder / 'checkpoints' / '10' / 'default' / '_METADATA'
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RunError, match=r'run/checkpoints/10 is corrupt'):
        alexnet_jax.load(folder)
    assert saved.find_steps(str(folder)) == [10]


def test_a_checkpoint_that_training_replaces_meanwhile(make_run, monkeypatch):
    found = iter([5, 10])  # 5 was there when it was looked for
    monkeypatch.setattr(saved, 'find_step', lambda *_: next(found))
    net = trained.TrainedNet.load(make_run(), dtype='bfloat16', precision='high')
    assert net.step == 10
    assert (net.config.dtype, net.config.precision) == ('bfloat16', 'high')


def test_a_checkpoint_of_another_network(make_run, monkeypatch):
    folder = make_run()
    monkeypatch.setitem(variants.VARIANTS, 'tiny', (Dense('fc6', 3), *TABLE[1:]))
    with pytest.raises(RunError, match=r'checkpoints/10 does not match the current tiny network'):
        alexnet_jax.load(folder)


def test_weights_without_tensorflow(make_run, monkeypatch):
    monkeypatch.delattr('alexnet_jax.data.ops.chain', raising=False)
    monkeypatch.setitem(sys.modules, 'alexnet_jax.data.ops.chain', None)
    net = alexnet_jax.load(make_run())
    assert net.probabilities(PIXEL[None]).shape == (1, 4)
    with pytest.raises(ImportError):
        net.preprocess(PIXEL)


# Probabilities


def test_probabilities_by_hand(make_run):
    found = alexnet_jax.load(make_run()).probabilities(PIXEL[None])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [[3 / 8, 2 / 8, 1 / 8, 2 / 8]], rtol=1e-6)


def test_views_are_averaged_as_probabilities(make_run):
    """Black gives (0, 0) in fc7 and 1/4 to each class."""
    views = np.stack([PIXEL, np.zeros_like(PIXEL)])[None]
    found = alexnet_jax.load(make_run()).probabilities(views)
    np.testing.assert_allclose(found, [[5 / 16, 4 / 16, 3 / 16, 4 / 16]], rtol=1e-6)


def test_any_number_of_images_and_few_compilations(make_run, monkeypatch):
    """Eight devices: 0, 1 and 8 images are computed as 8, 17 and 25 as 32, and 513 as 512 and 8."""
    traced, view_log_probs = [], steps.view_log_probs

    def counting(model, variables, image, mean):
        traced.append(len(image))  # on a device
        return view_log_probs(model, variables, image, mean)

    monkeypatch.setattr(steps, 'view_log_probs', counting)
    net = alexnet_jax.load(make_run())
    for count in (0, 1, 8, 17, 25, 513):
        pixels = random_pixels(count)
        found = net.probabilities(pixels)
        np.testing.assert_allclose(found, softmax(pixels[:, 0, 0]), rtol=1e-5)
    assert sorted(traced) == [1, 4, trained.BATCH]


def test_a_device_computes_no_more_views_than_a_batch(make_run, monkeypatch):
    monkeypatch.setattr(trained, 'BATCH', 5)  # 2 images of 2 views
    net = alexnet_jax.load(make_run())
    views = np.stack([random_pixels(19), random_pixels(19, seed=1)], axis=1)
    sizes, step = [], net.predict_step
    net.__dict__['predict_step'] = lambda images: (sizes.append(len(images)), step(images))[1]
    expected = (softmax(views[:, 0, 0, 0]) + softmax(views[:, 1, 0, 0])) / 2
    np.testing.assert_allclose(net.probabilities(views), expected, rtol=1e-5)
    assert sizes == [16, 8]


@pytest.mark.parametrize(
    'images',
    [
        np.zeros((1, 1, 1, 3), np.float32),
        np.zeros((1, 2, 2, 3), np.uint8),
        np.zeros((1, 1, 3), np.uint8),
        np.zeros((1, 0, 1, 1, 3), np.uint8),
    ],
)
def test_images_of_another_kind(make_run, images):
    net = alexnet_jax.load(make_run())
    with pytest.raises(BadInput, match=rf'{images.dtype} .*must be uint8 \[n, 1, 1, 3\] or'):
        net.probabilities(images)


def test_another_precision(make_run):
    folder = make_run()
    for wanted, expected in ((None, None), ('highest', lax.Precision.HIGHEST)):
        net = trained.TrainedNet.load(folder, precision=wanted)
        assert (net.model.precision, net.config.precision) == (expected, wanted or 'default')


def test_another_dtype(make_run):
    net = trained.TrainedNet.load(make_run(), dtype='bfloat16')
    assert (net.model.dtype, net.config.dtype) == ('bfloat16', 'bfloat16')
    found = net.probabilities(PIXEL[None])
    np.testing.assert_allclose(found, [[3 / 8, 2 / 8, 1 / 8, 2 / 8]], rtol=0.01)
    assert net.features(PIXEL[None]).dtype == np.float32


# Features


def test_features_by_hand(make_run):
    net = alexnet_jax.load(make_run())
    for layer, expected in {
        None: [1, 0],
        'fc6': [2, 0],
        'relu1': [2, 0],
        'fc7': [1, 0],  # after the nonlinearity, and scaled by the dropout
        'relu2': [2, 0],
        'drop1': [1, 0],
        'fc8': [log(3), log(2), 0, log(2)],
    }.items():
        found = net.features(PIXEL[None], layer)
        np.testing.assert_allclose(found, [expected], rtol=1e-6, err_msg=str(layer))
    views = np.stack([PIXEL, np.zeros_like(PIXEL)])
    found = net.features(np.stack([views] * 3), 'fc6')
    np.testing.assert_array_equal(found, [[[2, 0], [0, 0]]] * 3)


def test_unknown_layer(make_run):
    net = alexnet_jax.load(make_run())
    with pytest.raises(BadInput, match=r"'fc9'; allowed: fc6, relu1, fc7, relu2, drop1, fc8$"):
        net.features(PIXEL[None], 'fc9')


def test_maps_of_a_convolution_and_the_mean_image(make_run):
    """A filter that sums a window of 2 x 2 pixels, less a mean whose center is 10 everywhere."""
    table = (Conv('conv1', 1, 2), ReLU(), MaxPool(2, 1), Dense('fc2', 4))
    params = {
        'conv1': {'kernel': np.ones((2, 2, 3, 1), np.float32), 'bias': np.zeros(1, np.float32)},
        'fc2': {'kernel': np.ones((1, 4), np.float32), 'bias': np.zeros(4, np.float32)},
    }
    folder = make_run({'data.mean': 'image', 'image_size': 3}, table, params)
    mean = np.pad(np.full((3, 3, 3), 10, np.float32), [(1, 1), (1, 1), (0, 0)])
    found = statistics.Statistics(mean, np.ones(3), np.eye(3), 'here')
    statistics.save(folder / 'statistics.npz', found)
    images = np.random.RandomState(0).randint(0, 30, (5, 3, 3, 3), np.uint8)
    sums = images.astype(np.float64).sum(-1) - 30
    windows = sums[:, :-1, :-1] + sums[:, 1:, :-1] + sums[:, :-1, 1:] + sums[:, 1:, 1:]
    windows = np.maximum(windows, 0)[..., None]
    net = alexnet_jax.load(folder)
    np.testing.assert_allclose(net.features(images, 'conv1'), windows)
    np.testing.assert_allclose(
        net.features(images, 'pool1'), windows.max((1, 2), keepdims=True)
    )  # [5, 1, 1, 1]


def test_averages_of_batch_norm(make_run):
    """(2, 1, 0) less (1, 1, 1), over the square root of 4."""
    stats = {'bn1': {'mean': np.ones(3, np.float32), 'var': np.full(3, 4, np.float32)}}
    params = {'fc2': {'kernel': np.zeros((3, 4), np.float32), 'bias': np.zeros(4, np.float32)}}
    table = (BatchNorm('bn1', epsilon=0), Dense('fc2', 4))
    net = alexnet_jax.load(make_run(None, table, params, batch_stats=stats))
    np.testing.assert_allclose(net.features(PIXEL[None], 'bn1'), [[[[0.5, 0, -0.5]]]])


# Single images


@pytest.fixture
def crops(make_run):
    """A net that takes a center crop of 4 x 4."""
    params = {'fc': {'kernel': np.zeros((48, 4), np.float32), 'bias': np.float32([0, 3, 1, 9])}}
    values = {'image_size': 4, 'data.eval_ops': 'decode|center_crop(4)'}
    return alexnet_jax.load(make_run(values, (Dense('fc', 4),), params))


def test_preprocess_files_arrays_and_pillow(crops, tmp_path):
    pixels = np.random.RandomState(0).randint(0, 256, (6, 8, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'a.png')
    for image in (tmp_path / 'a.png', str(tmp_path / 'a.png'), pixels, Image.fromarray(pixels)):
        np.testing.assert_array_equal(crops.preprocess(image), pixels[1:5, 2:6])
    gray = crops.preprocess(pixels[..., 0])
    np.testing.assert_array_equal(gray, np.repeat(pixels[1:5, 2:6, :1], 3, axis=2))


def test_a_pillow_image_is_seen_as_its_file_is(crops, tmp_path):
    """Turned by its EXIF data; CMYK, which no PNG holds, is converted."""
    photo = Image.fromarray(np.random.RandomState(0).randint(0, 256, (8, 12, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it a quarter clockwise
    photo.save(tmp_path / 'a.png', exif=exif)
    turned = np.rot90(photo, -1)
    for image in (tmp_path / 'a.png', Image.open(tmp_path / 'a.png'), turned.copy()):
        np.testing.assert_array_equal(crops.preprocess(image), turned[4:8, 2:6])
    gray = np.random.RandomState(1).randint(0, 2**16, (8, 8)).astype('>u2')
    for order in ('>u2', '<u2'):
        wide = Image.fromarray(gray.astype(order))  # I;16B and I;16
        assert wide.mode == {'>u2': 'I;16B', '<u2': 'I;16'}[order]
        np.testing.assert_array_equal(crops.preprocess(wide)[..., 0], gray[2:6, 2:6] >> 8)
    cmyk = photo.convert('CMYK')
    expected = np.asarray(cmyk.convert('RGB'))[2:6, 4:8]
    np.testing.assert_array_equal(crops.preprocess(cmyk), expected)


def test_only_the_orientation_of_a_pillow_image_is_kept(crops, tmp_path):
    """Other tags may be malformed, and a profile may be larger than what is searched for it."""
    photo = Image.fromarray(np.random.RandomState(0).randint(0, 256, (8, 12, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    profile = np.random.RandomState(1).bytes(300_000)
    photo.save(tmp_path / 'a.png', exif=exif, icc_profile=profile)
    expected = np.rot90(photo, -1)[4:8, 2:6]
    with Image.open(tmp_path / 'a.png') as image:
        np.testing.assert_array_equal(crops.preprocess(image), expected)
    # In TIFF's form: big-endian, one entry, the orientation as a byte instead of a short.
    malformed = b'Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x01\0\0\0\x01\x06\0\0\0\0\0\0\0'
    photo.save(tmp_path / 'b.jpg', exif=malformed)
    with Image.open(tmp_path / 'b.jpg') as image:
        expected = crops.preprocess(tmp_path / 'b.jpg')
        np.testing.assert_array_equal(crops.preprocess(image), expected)


def test_predict(crops):
    """The fourth output has no name; e**3 : e : 1 for the others, out of e**9 more."""
    classes = crops.predict(np.zeros((4, 4, 3), np.uint8), top=2)
    assert [name for name, _ in classes] == ['bee', 'cat']
    total = np.exp([0, 3, 1, 9]).sum()
    np.testing.assert_allclose([p for _, p in classes], np.exp([3, 1]) / total, rtol=1e-5)
    assert len(crops.predict(np.zeros((4, 4, 3), np.uint8))) == 3


def test_predict_a_list(crops, tmp_path, monkeypatch):
    """Each image as if it were alone, whatever its kind; by their words where classes have any."""
    monkeypatch.setattr(trained, 'BATCH', 2)  # in three batches
    pixels = np.random.RandomState(0).randint(0, 256, (5, 4, 4, 3), np.uint8)
    crops.variables['params']['fc']['kernel'] = pmap.replicate(
        np.random.RandomState(1).normal(0, 0.01, (48, 4)).astype(np.float32)
    )
    Image.fromarray(pixels[1]).save(tmp_path / 'b.png')
    images = [pixels[0], tmp_path / 'b.png', Image.fromarray(pixels[2]), *pixels[3:]]
    found = crops.predict(images, top=2)
    assert [len(classes) for classes in found] == [2] * 5
    for classes, alone in zip(found, pixels, strict=True):
        assert [name for name, _ in classes] == [name for name, _ in crops.predict(alone, top=2)]
        np.testing.assert_allclose(
            [p for _, p in classes], [p for _, p in crops.predict(alone, top=2)], rtol=1e-5
        )
    assert len({tuple(classes) for classes in found}) == 5
    assert crops.predict([]) == []
    fish = dataclasses.replace(crops, class_names=['n01440764', 'n01443537', 'cat'])
    assert {name for name, _ in fish.predict(pixels[0])} == {'tench', 'goldfish', 'cat'}


def test_summary_and_shapes(crops):
    *_, layer, total, _ = crops.summary().splitlines()
    assert layer.split() == ['FC', '4', 'W', '4x48,', 'softmax', '4*4*3', '=', '48', '196', '192']
    assert total.split() == ['total', '196', '192']
    assert crops.feature_shape('fc') == (4,)


def test_images_that_cannot_be_preprocessed(crops, tmp_path):
    with pytest.raises(BadInput, match=r'float32 \[4, 4, 3\]; it must be uint8'):
        crops.preprocess(np.zeros((4, 4, 3), np.float32))
    with pytest.raises(BadInput, match=r'uint8 \[4, 4, 2\]; it must be uint8'):
        crops.preprocess(np.zeros((4, 4, 2), np.uint8))
    with pytest.raises(BadInput, match=r'uint8 \[0, 4, 3\]; it must be uint8'):
        crops.preprocess(np.zeros((0, 4, 3), np.uint8))
    with pytest.raises(BadInput, match='mode I, of 32 bits; convert it to 8 bits'):
        crops.preprocess(Image.new('I', (8, 8), 30000))
    with pytest.raises(RunError, match=r'the image cannot be used: .*3'):
        crops.preprocess(np.zeros((3, 9, 3), np.uint8))
    with pytest.raises(BadInput, match=r'uint8 \[8\]; it must be uint8'):
        crops.preprocess(np.zeros(8, np.uint8))
    Image.effect_noise((64, 64), 99).save(tmp_path / 'whole.jpg')
    (tmp_path / 'cut.jpg').write_bytes((tmp_path / 'whole.jpg').read_bytes()[:999])
    with (
        Image.open(tmp_path / 'cut.jpg') as damaged,
        pytest.raises(RunError, match=r'the image cannot be decoded: .*truncated'),
    ):
        crops.preprocess(damaged)
    with pytest.raises(BadInput, match=r'gone\.png cannot be read'):
        crops.preprocess(tmp_path / 'gone.png')
    crops.config.data.eval_ops = 'decode'
    with pytest.raises(BadInput, match=r"image is 5 x 6 after .*'decode'.*takes 4 x 4; resize it"):
        crops.preprocess(np.zeros((5, 6, 3), np.uint8))
