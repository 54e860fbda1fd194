"""What in a folder is a class, an image, a split: files of no content, told by their names."""

import hashlib
import io
import os
import sys
import unicodedata
from pathlib import Path

import pytest
from class_folders import PLAIN, files_of, images
from helpers import assert_has

from alexnet_jax import cli
from alexnet_jax.data.sources import listing
from alexnet_jax.data.sources.layout import expand, find_layout
from alexnet_jax.errors import BadInput


class TestImages:
    @pytest.mark.parametrize(
        'name',
        [
            '.ipynb_checkpoints/x-checkpoint.jpg', '__MACOSX/a/._x.jpg', '.hidden/x.jpg',
            'a/.ipynb_checkpoints/x.jpg', 'a/._x.jpg', 'a/Thumbs.db', 'a/.DS_Store', '.DS_Store',
            'a/@eaDir/x.jpg', 'a/x.jpg~', 'desktop.ini', '$RECYCLE.BIN/x.jpg',
            'a/x.jpg:Zone.Identifier',
        ],
    )  # fmt: skip
    def test_what_systems_and_tools_leave_is_no_data(self, make, name):
        layout = find_layout(make(*PLAIN, f'train/{name}'))
        assert layout.classes == ['a', 'b']
        assert files_of(layout.train) == ['a/x.jpg=0', 'b/x.jpg=1']
        (note,) = layout.notes
        assert_has(note, 'operating system or a tool', name.removeprefix('a/').split('/')[0])

    def test_an_empty_leftover_is_no_class_without_an_image(self, make):
        layout = find_layout(make(*PLAIN, 'train/__MACOSX/', 'validation/.cache/'))
        assert (layout.classes, len(layout.notes)) == (['a', 'b'], 1)

    def test_images_lie_at_any_depth(self, make):
        folder = make(*PLAIN, 'train/a/tabby/young/1.png', 'train/b/images/1.JPEG')
        assert files_of(find_layout(folder).train) == [
            'a/tabby/young/1.png=0', 'a/x.jpg=0', 'b/images/1.JPEG=1', 'b/x.jpg=1'
        ]  # fmt: skip

    def test_links_are_followed_but_not_in_circles(self, make, tmp_path):
        folder = make(*PLAIN, 'elsewhere/z.png')
        (tmp_path / 'train/a/link').symlink_to(tmp_path / 'elsewhere')
        (tmp_path / 'train/a/circle').symlink_to(tmp_path / 'train')
        files = find_layout(folder).train.files
        assert 'a/link/z.png' in files
        assert len(files) == 3

    @pytest.mark.parametrize(
        'end', ['jpg', 'JPEG', 'jpe', 'jfif', 'png', 'Gif', 'webp', 'bmp', 'tif', 'TIFF', 'avif']
    )
    def test_names_of_images(self, make, end):
        assert f'a/1.{end}=0' in files_of(find_layout(make(*PLAIN, f'train/a/1.{end}')).train)

    def test_what_is_left_out_is_counted(self, make):
        folder = make(*PLAIN, 'train/a/1.heic', 'train/a/x.txt', 'validation/a/y.txt')
        (note,) = find_layout(folder).notes
        assert_has(note, '3 files', '2 .txt', '1 .heic')

    def test_a_class_of_which_most_is_left_out(self, make):
        folder = make(*PLAIN, *images('train/b/{}.heic', 3), 'train/b/video.mov')
        with pytest.raises(BadInput) as error:
            find_layout(folder)
        assert_has(str(error.value), f'{folder}/train/b', '4 of 5', '3 .heic, 1 .mov', 'JPEG')

    def test_companions_of_images_may_be_many(self, make):
        folder = make(*PLAIN, *images('train/b/{}.xml', 9), 'train/b/x.json')
        assert len(find_layout(folder).train.files) == 2

    def test_image_files(self, make, capsys):
        folder = make('b.PNG', 'a/c.webp', 'a.txt', '.hidden.jpg')
        assert listing.image_files(folder) == ['a/c.webp', 'b.PNG']
        assert_has(capsys.readouterr().err, '1 .txt', '.hidden.jpg')
        with pytest.raises(BadInput, match=r'has no images; allowed: .jpg'):
            listing.image_files(make('nothing/x.txt') + '/nothing')
        with pytest.raises(BadInput, match='nowhere does not exist'):
            listing.image_files(f'{folder}/nowhere')

    def test_a_note_is_said_once(self, capsys):
        listing.say.cache_clear()
        for _ in range(2):
            listing.say('a note of this test')
        assert capsys.readouterr().err == 'a note of this test\n'

    def test_a_note_replaces_a_progress_line(self, monkeypatch):
        terminal = io.StringIO()
        monkeypatch.setattr(terminal, 'isatty', lambda: True)
        monkeypatch.setattr(sys, 'stderr', terminal)
        cli.show_progress('timing')
        listing.say('a note on a terminal')
        assert terminal.getvalue() == '\r\033[Ktiming\r\033[Ka note on a terminal\n'

    def test_sizes(self, make):
        folder = make(**{'a': '12345', 'b/c': ''})
        assert listing.file_sizes(folder, ['b/c', 'a', 'absent']) == [0, 5, -1]

    def test_images_among_many_other_files(self, make, capsys):
        """As in a phone's folder, of which those that can be read are to be classified."""
        folder = make('1.jpg', '2.heic', '3.heic', '4.mov', 'notes.txt')
        assert listing.image_files(folder) == ['1.jpg']
        assert '2 .heic, 1 .mov' in capsys.readouterr().err
        (Path(folder) / '1.jpg').unlink()
        with pytest.raises(BadInput, match=r'3 of 3 files cannot be read .*convert them to JPEG'):
            listing.image_files(folder)

    @pytest.mark.parametrize('split', ['', 'train/'])
    def test_a_run_among_the_classes_is_named(self, make, split):
        """Not its files, of which the message would advise to remove the checkpoints."""
        records = ('config.json', 'classes.json', 'environment.json')
        run = [f'{split}runs/a/{name}' for name in (*records, 'checkpoints/1/d/0', 'report/1.png')]
        folder = make(*(f'{split}{name}/{i}.jpg' for name in 'xy' for i in range(3)), *run)
        with pytest.raises(BadInput) as error:
            find_layout(folder)
        assert_has(
            str(error.value), f'{folder}/{split}runs/a is the workdir of a run', 'move it outside'
        )

    def test_a_run_among_images_with_a_list_is_no_class(self, make):
        names = [f'runs/a/{name}' for name in ('config.json', 'classes.json', 'environment.json')]
        folder = make('0.jpg', '1.jpg', '2.jpg', '3.jpg', *names)
        lines = ''.join(f'{i}.jpg,{"ab"[i % 2]}\n' for i in range(4))
        Path(folder, 'labels.csv').write_text(lines)
        assert find_layout(folder).classes == ['a', 'b']

    def test_a_run_beside_the_splits_does_no_harm(self, make):
        names = [f'runs/a/{name}.json' for name in ('config', 'classes', 'environment')]
        assert find_layout(make(*PLAIN, *names)).classes == ['a', 'b']


class TestNames:
    def test_any_script_and_encoding(self, make):
        names = ['猫', 'кот', 'a b', "it's", 'é\n']
        if sys.platform == 'linux':  # others have file systems that refuse it
            names.append(os.fsdecode(b'\xff\xfe'))
        for name in names:
            make(f'train/{name}/{name}.jpg', f'validation/{name}/{name}.jpg')
        layout = find_layout(make())
        found = layout.classes, layout.train.files, layout.eval.files
        assert [len(part) for part in found] == [len(names)] * 3
        assert layout.classes == sorted(layout.classes)

    def test_one_name_in_two_forms_of_unicode(self, make):
        composed, apart = (unicodedata.normalize(form, 'café') for form in ('NFC', 'NFD'))
        assert composed != apart
        folder = make(f'train/{apart}/x.jpg', 'train/b/x.jpg', f'validation/{composed}/y.jpg')
        layout = find_layout(folder)
        assert layout.classes == ['b', composed]
        assert layout.eval.labels == [1]

    def test_the_form_of_unicode_moves_no_image(self, make):
        """To another split or place: NFD's 'e' sorts before 'f', but NFC's 'é' after it."""
        names = [f'{name}/{letter}{i}.jpg' for name in 'ab' for letter in 'éf' for i in range(20)]
        folder = make(
            *(f'{form}/{unicodedata.normalize(form, name)}' for form in ('NFC', 'NFD')
              for name in names)
        )  # fmt: skip
        here, there = (
            find_layout(f'{folder}/{form}', eval_fraction=0.5) for form in ('NFC', 'NFD')
        )
        for split in ('train', 'eval'):
            expected, found = getattr(here, split).files, getattr(there, split).files
            assert found != expected
            assert [unicodedata.normalize('NFC', name) for name in found] == expected


class TestSplits:
    def test_the_plain_layout_says_nothing(self, make):
        layout = find_layout(make(*PLAIN))
        assert layout.notes == []
        assert files_of(layout.train) == ['a/x.jpg=0', 'b/x.jpg=1']
        assert files_of(layout.eval) == ['a/y.jpg=0', 'b/y.jpg=1']

    @pytest.mark.parametrize('name', ['val', 'valid', 'test', 'Validation', 'dev'])
    def test_validation_by_another_name(self, make, name):
        folder = make('train/a/x.jpg', 'train/b/x.jpg', f'{name}/a/y.jpg', f'{name}/b/y.jpg')
        layout = find_layout(folder)
        assert layout.eval.folder == f'{folder}/{name}'
        assert_has(layout.notes[0], 'validation', f'folder {name}')

    def test_val_comes_before_test(self, make):
        folder = make(*PLAIN[:2], 'test/a/y.jpg', 'val/a/y.jpg')
        assert find_layout(folder).eval.folder == f'{folder}/val'

    def test_a_split_that_was_asked_for_is_not_replaced(self, make):
        folder = make(*PLAIN)
        with pytest.raises(BadInput) as error:
            find_layout(folder, eval_split='test')
        assert_has(str(error.value), 'data.eval_split', f'{folder}/test', 'train, validation')

    def test_empty_and_missing_classes_of_validation(self, make):
        for folder in (make(*PLAIN[:3], 'validation/b/'), make(*PLAIN[:2], 'val2/a/y.jpg')):
            layout = find_layout(folder)
            assert files_of(layout.eval) == ['a/y.jpg=0']
            assert any('has no images of b' in note for note in layout.notes)

    @pytest.mark.parametrize('empty', [('validation/a/',), ('validation/a/', 'validation/b/')])
    def test_a_validation_split_without_any_image(self, make, empty):
        folder = make('train/a/1.jpg', 'train/b/1.jpg', *empty)
        with pytest.raises(BadInput, match=r'/validation has no images in its class folders \(a'):
            find_layout(folder)

    def test_an_empty_class_of_training(self, make):
        with pytest.raises(BadInput, match=r'/train/c has no images; allowed: .jpg'):
            find_layout(make(*PLAIN, 'train/c/'))

    @pytest.mark.parametrize('prefix', ['', 'train/'])
    def test_by_hash(self, make, prefix):
        """Without validation images; the names decide, by their SHA-256 as a fraction of 2**256."""
        names = [f'{name}/{i}.jpg' for name in ('cat', 'dog') for i in range(100)]
        layout = find_layout(make(*(prefix + name for name in names)), eval_fraction=0.25)
        digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in names}
        expected = sorted(name for name in names if digests[name] < '4')  # of 16
        assert sorted(layout.eval.files) == expected
        assert sorted(layout.train.files) == sorted(set(names) - set(expected))
        assert 30 < len(expected) < 70
        assert_has(layout.notes[0], f'{len(expected)} of 200', 'eval_fraction=0.25')

    def test_by_hash_it_stays_when_images_are_added(self, make):
        before = find_layout(make(*images('a/{}.jpg', 50), *images('b/{}.jpg', 50)))
        after = find_layout(make(*images('a/new-{}.jpg', 50), *images('c/{}.jpg', 9)))
        for split in ('train', 'eval'):
            assert set(getattr(before, split).files) <= set(getattr(after, split).files)

    def test_by_hash_every_class_trains_and_something_is_evaluated(self, make):
        few = find_layout(make('a/1.jpg', 'a/2.jpg', 'b/1.jpg'), eval_fraction=1e-9)
        assert (len(few.train.files), len(few.eval.files)) == (2, 1)
        assert few.eval.labels == [0]
        many = find_layout(make(), eval_fraction=1 - 1e-9)
        assert sorted(many.train.labels) == [0, 1]
        assert many.eval.labels == [0]

    def test_by_hash_a_class_may_have_no_validation_image(self, make):
        layout = find_layout(make(*images('a/{}.jpg', 40), 'b/1.jpg', 'b/2.jpg'))
        assert set(layout.eval.labels) == {0}
        assert 'there are no validation images of b (1 class)' in layout.notes

    def test_a_class_with_the_name_of_a_split(self, make):
        """A vehicle; its folder has folders, and is taken for a split."""
        names = [f'train/{year}/{i}.jpg' for year in (2023, 2024) for i in range(9)]
        folder = make(*names, 'bus/1.jpg', 'car/1.jpg', 'notes/x.txt')
        (note,) = [note for note in find_layout(folder).notes if 'rename it' in note]
        assert_has(note, 'only the folder train, and not bus, car; if train is one of the classes')

    def test_one_image_per_class(self, make):
        with pytest.raises(BadInput, match='no class has two images'):
            find_layout(make('a/1.jpg', 'b/1.jpg'))

    def test_other_folders_beside_the_classes(self, make):
        layout = find_layout(make('a/1.jpg', 'a/2.jpg', 'b/1.jpg', 'notes/x.txt', 'empty/'))
        assert layout.classes == ['a', 'b']

    def test_the_folder_around_the_classes(self, make):
        folder = make(*images('photos/a/{}.jpg', 3), *images('photos/b/{}.jpg', 3))
        with pytest.raises(BadInput) as error:
            find_layout(folder)
        assert_has(str(error.value), 'only one class folder, photos', f'{folder}/photos')

    def test_a_prepared_set(self, make):
        folder = make('manifest.json', 'statistics.npz', 'train-00000-of-00001.pixels')
        with pytest.raises(BadInput) as error:
            find_layout(folder)
        assert_has(str(error.value), 'prepared set', f'--config.data.name=prepared:{folder}')

    def test_an_archive(self, make):
        with pytest.raises(BadInput, match=r'images.zip is a file; unpack it'):
            find_layout(make('images.zip') + '/images.zip')

    def test_spelling(self, make, monkeypatch):
        folder = make(*PLAIN)
        monkeypatch.chdir(os.path.dirname(folder))
        monkeypatch.setenv('HOME', os.path.dirname(folder))
        name = os.path.basename(folder)
        for spelled in (name, f'./{name}/', f'~/{name}', f'{folder}//'):
            assert expand(spelled) == folder
        assert expand('gs://bucket/x') == 'gs://bucket/x'
