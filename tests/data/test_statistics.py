import numpy as np
import pytest
import tensorflow as tf
from etils import epath

from alexnet_jax.data import compute_statistics, statistics
from alexnet_jax.data.pipeline import Data
from alexnet_jax.errors import BadInput, RunError

TO_COLOR = 'decode|random_crop(8)|pca_shift(0.1)'


def files(count, size):
    return {f'train/{"ab"[i % 2]}/{i:03}.png': size for i in range(count)} | {
        'validation/a/0.png': size
    }


def stack(pixels):
    """The training images, float64 [n, h, w, 3]."""
    return np.stack([p for name, p in pixels.items() if name.startswith('train')]).astype(float)


def test_against_numpy(write_folder, folder_config, tmp_path):
    folder, pixels = write_folder(files(75, (9, 8)))  # more than one batch of 64
    ops = 'decode|random_crop(8)|pca_shift(0.1)'
    data = Data(
        folder_config(folder, **{'data.train_ops': ops, 'data.eval_ops': 'decode|resize(8)'})
    )
    data.load_statistics(tmp_path)
    images = stack(pixels)
    # the center 8 x 8 of 9 x 8 starts at row 0, as (9 - 8) // 2 = 0
    np.testing.assert_array_equal(data.mean, images.mean(0).astype(np.float32)[:8])

    found = statistics.load(tmp_path / 'statistics.npz')
    flat = images.reshape(-1, 3)
    covariance = np.cov(flat.T, bias=True)
    rebuilt = found.eigenvectors @ np.diag(found.eigenvalues) @ found.eigenvectors.T
    np.testing.assert_allclose(rebuilt, covariance, rtol=1e-9)
    np.testing.assert_allclose(found.axes @ found.axes.T, covariance, rtol=1e-5)
    np.testing.assert_allclose(found.eigenvectors.T @ found.eigenvectors, np.eye(3), atol=1e-12)


def test_mean_is_of_the_ops_before_the_first_random_one(write_folder, folder_config, tmp_path):
    folder, pixels = write_folder(files(6, (10, 12)))
    ops = 'decode|center_crop(8)|random_mirror'
    data = Data(
        folder_config(folder, **{'data.train_ops': ops, 'data.eval_ops': 'decode|resize(8)'})
    )
    data.load_statistics(tmp_path)
    expected = stack(pixels)[:, 1:9, 2:10].mean(0).astype(np.float32)
    np.testing.assert_array_equal(data.mean, expected)


@pytest.mark.parametrize('batch', [1, 7, 64])
@pytest.mark.slow
def test_does_not_depend_on_the_batch(digits_config, monkeypatch, batch):
    data = Data(digits_config())
    expected = compute_statistics.compute(data._train, data.train_preprocessor.prefix, (8, 8))
    monkeypatch.setattr(compute_statistics, 'BATCH', batch)
    found = compute_statistics.compute(data._train, data.train_preprocessor.prefix, (8, 8))
    np.testing.assert_array_equal(found.mean_image, expected.mean_image)
    np.testing.assert_array_equal(found.axes, expected.axes)


def test_colors_of_differing_sizes_without_a_mean(write_folder, folder_config, tmp_path):
    folder, pixels = write_folder(
        {f'train/{c}/{i}.png': (8 + i, 9) for c in 'ab' for i in range(3)}
        | {'validation/a/0.png': (8, 8)}
    )
    ops = 'decode|random_crop(8)|pca_shift(0.1)'
    data = Data(folder_config(folder, **{'data.train_ops': ops, 'data.mean': 'none'}))
    data.load_statistics(tmp_path)
    assert not data.mean.any()
    flat = np.concatenate([p.reshape(-1, 3) for n, p in pixels.items() if 'train' in n])
    axes = statistics.load(tmp_path / 'statistics.npz').axes
    np.testing.assert_allclose(axes @ axes.T, np.cov(flat.T.astype(float), bias=True), rtol=1e-5)


@pytest.mark.slow
def test_color_shift_of_a_batch_uses_the_axes(digits_config, tmp_path):
    # digits are gray: the only direction of color is (1, 1, 1) / sqrt(3)
    data = Data(digits_config(batch_size=1000, **{'data.train_ops': 'decode|pca_shift(0.1)'}))
    data.load_statistics(tmp_path)
    shifts = next(next(data.train_batches()))['color_shift']
    np.testing.assert_allclose(shifts[:, 0], shifts[:, 2], atol=1e-3)
    images = [tf.io.decode_png(image) for image in data._train.split.images]
    # 0.1 sqrt(lambda) / sqrt(3) in each channel, and lambda is 3 times a channel's variance;
    # 1,000 draws estimate a deviation within 7% (3 standard deviations)
    np.testing.assert_allclose(shifts[:, 0].std(), 0.1 * np.std(images), rtol=0.07)


def test_nothing_needed_writes_nothing(digits_config, tmp_path):
    data = Data(digits_config(**{'data.mean': 'none'}))
    data.load_statistics(tmp_path / 'workdir')
    assert not (tmp_path / 'workdir').exists()
    assert not data.mean.any()


@pytest.mark.slow
def test_file_is_written_once_and_read_by_others(digits_config, tmp_path, monkeypatch):
    first = Data(digits_config())
    first.load_statistics(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ['statistics.npz']
    monkeypatch.delattr(compute_statistics, 'compute')
    for process in (0, 1):
        data = Data(digits_config(), process, 2)
        data.load_statistics(tmp_path)
        np.testing.assert_array_equal(data.mean, first.mean)


@pytest.mark.slow
def test_other_processes_wait_for_the_file(digits_config, tmp_path, monkeypatch):
    def sleep(seconds):
        Data(digits_config()).load_statistics(tmp_path)  # process 0, meanwhile

    monkeypatch.setattr(compute_statistics.time, 'sleep', sleep)
    data = Data(digits_config(), 1, 2)
    data.load_statistics(tmp_path)
    assert data.mean.any()


def test_file_of_other_ops_is_refused(digits_config, tmp_path):
    Data(digits_config()).load_statistics(tmp_path)
    other = Data(digits_config(**{'data.train_ops': 'decode|resize(8)'}))
    with pytest.raises(BadInput, match=r'statistics.npz is for 1437 images.*remove it'):
        other.load_statistics(tmp_path)


def test_a_damaged_file_of_a_prepared_set(digits_config, tmp_path):
    """Of which not the file is to be removed: the set would be refused."""
    data, known = Data(digits_config()), epath.Path(tmp_path) / 'known.npz'
    known.write_text('no')
    prefix = data.train_preprocessor.prefix
    with pytest.raises(BadInput, match=r'known\.npz cannot be read: .*; restore it, or remove the '
                       'folder and prepare the set again'):  # fmt: skip
        compute_statistics.load_or_compute(
            tmp_path / 'mine.npz', data._train, prefix, None, 0, known
        )


def test_statistics_from_before_resize_had_an_argument(digits_config, tmp_path):
    """The text of the ops, which says what a file is for, is still the same."""
    data = Data(digits_config(**{'data.train_ops': 'decode|resize(8)|random_crop(8)'}))
    data.load_statistics(tmp_path)
    found = statistics.load(epath.Path(tmp_path) / 'statistics.npz')
    assert 'Resize(height=8, width=None))' in found.origin
    other = Data(digits_config(**{'data.train_ops': 'decode|resize(8, antialias)|random_crop(8)'}))
    with pytest.raises(BadInput, match='antialias=True'):
        other.load_statistics(tmp_path)


class TestMeanOfAnotherRun:
    @pytest.fixture
    def other(self, tmp_path):
        """The workdir of a run with a mean image of 10 x 12 and other colors."""
        mean = np.random.RandomState(1).uniform(0, 255, (10, 12, 3)).astype(np.float32)
        found = statistics.Statistics(mean, np.ones(3), np.eye(3), 'made up')
        statistics.save(epath.Path(tmp_path) / 'other' / 'statistics.npz', found)
        return str(tmp_path / 'other'), mean

    @pytest.fixture
    def config(self, digits_config, other):
        return digits_config(
            **{'data.mean': 'init_from', 'init_from': other[0], 'data.train_ops': TO_COLOR}
        )

    def test_mean_is_theirs_and_colors_are_ours(self, digits_config, config, other, tmp_path):
        data = Data(config)
        data.load_statistics(tmp_path / 'mine')
        np.testing.assert_array_equal(data.mean, other[1][1:9, 2:10])
        ours = Data(digits_config(**{'data.train_ops': TO_COLOR}))
        ours.load_statistics(tmp_path / 'ours')
        np.testing.assert_array_equal(data._axes, ours._axes)
        assert (data.mean != ours.mean).all()

    def test_colors_that_no_op_uses_are_not_computed(self, config, other, tmp_path, monkeypatch):
        monkeypatch.delattr(compute_statistics, 'compute')
        config.data.train_ops = 'decode|random_crop(8)'
        for _ in range(2):  # from the file, then
            data = Data(config)
            data.load_statistics(tmp_path / 'mine')
            np.testing.assert_array_equal(data.mean, other[1][1:9, 2:10])
        assert not statistics.load(tmp_path / 'mine' / 'statistics.npz').axes.any()

    def test_resuming_does_not_need_the_other_run(self, config, other, tmp_path):
        Data(config).load_statistics(tmp_path / 'mine')
        (epath.Path(other[0]) / 'statistics.npz').unlink()
        data = Data(config)
        data.load_statistics(tmp_path / 'mine')
        np.testing.assert_array_equal(data.mean, other[1][1:9, 2:10])

    def test_the_file_of_another_run_or_of_our_own_mean_is_refused(self, config, tmp_path):
        Data(config).load_statistics(tmp_path / 'mine')
        for changes in ({'init_from': 'runs/third'}, {'data.mean': 'image'}):
            changed = config.copy_and_resolve_references()
            changed.update_from_flattened_dict(changes)
            with pytest.raises(BadInput, match=r'mean image of .*other, but this run needs'):
                Data(changed).load_statistics(tmp_path / 'mine')

    def test_damaged(self, config, other, tmp_path):
        (epath.Path(other[0]) / 'statistics.npz').write_text('no')
        with pytest.raises(BadInput, match=r'other/statistics\.npz cannot be read'):
            Data(config).load_statistics(tmp_path / 'mine')
        assert not (tmp_path / 'mine').exists()


class TestBadImages:
    @pytest.fixture
    def broken(self, write_folder, folder_config):
        """broken(policy) -> (Data on 120 images of which one is bad, the pixels of the others)."""

        def make(policy):
            folder, pixels = write_folder(files(120, (8, 8)))
            (folder / 'train/b/077.png').write_bytes(b'no image')
            del pixels['train/b/077.png']
            return Data(folder_config(folder, **{'data.on_bad_image': policy})), pixels

        return make

    @pytest.mark.slow
    def test_stop(self, broken, tmp_path):
        with pytest.raises(RunError, match=r'077.png cannot be used: it is not a JPEG'):
            broken('stop')[0].load_statistics(tmp_path)
        assert not (tmp_path / 'statistics.npz').exists()

    def test_skip(self, broken, tmp_path):
        data, pixels = broken('skip')
        data.load_statistics(tmp_path)
        np.testing.assert_array_equal(data.mean, stack(pixels).mean(0).astype(np.float32))

    def test_an_image_of_another_size_is_trained_on(
        self, write_folder, folder_config, tmp_path, capsys
    ):
        """Also by the start that computes the mean, which leaves it out: no other start knows."""
        sizes = files(120, (8, 8)) | {'train/b/077.png': (9, 9)}
        folder, pixels = write_folder(sizes)
        del pixels['train/b/077.png']
        changes = {
            'data.on_bad_image': 'skip', 'data.train_ops': 'decode|random_crop(8)',
            'batch_size': 120,
        }  # fmt: skip
        data = Data(folder_config(folder, **changes))
        data.load_statistics(tmp_path)
        np.testing.assert_array_equal(data.mean, stack(pixels).mean(0).astype(np.float32))
        (batch,) = next(data.train_batches())
        assert batch['mask'].sum() == 120
        notes = capsys.readouterr().err
        assert f'left out of the statistics: {folder}/train/b/077.png cannot be used: ' in notes
        assert 'skipped' not in notes


@pytest.mark.slow
def test_image_of_another_size_is_named(write_folder, folder_config, tmp_path):
    folder, _ = write_folder(files(60, (8, 8)) | {'train/b/odd.png': (8, 12)})
    config = folder_config(folder, **{'data.train_ops': 'decode|random_crop(8)'})
    # the odd one is the last file, which the constructor looks at
    with pytest.raises(BadInput, match='8 x 8 and 8 x 12'):
        Data(config)
    (folder / 'train/b/odd.png').rename(folder / 'train/b/001.png')
    with pytest.raises(RunError, match=r'001.png cannot be used: .*8 x 12.*resize\(8\)'):
        Data(config).load_statistics(tmp_path)
