"""Lists of labels beside images: which is taken, what it may look like, and its mistakes."""

import pytest
from class_folders import PLAIN, files_of, images
from helpers import assert_has

from alexnet_jax.data.sources.labels import find_labels
from alexnet_jax.data.sources.layout import find_layout
from alexnet_jax.errors import BadInput

LABELED = ('train/n01/x.jpg', 'train/n02/x.jpg', 'val/v_1.JPEG', 'val/v_2.JPEG', 'val/v_3.JPEG')


@pytest.mark.parametrize(
    ('name', 'text'),
    [
        # Kaggle's, with boxes; ids without extension, in another order
        ('LOC_val_solution.csv', 'ImageId,PredictionString\nv_3,n01 1 2 3 4\nv_1,n02 85 1 499 '
         '272 n02 1 2 3 4\nv_2,n01 0 0 1 1\n'),
        ('val.txt', 'v_1.JPEG 1\nv_2.JPEG 0\nv_3.JPEG 0\n'),  # Caffe's
        ('val/val_annotations.txt', 'v_1.JPEG\tn02\t0\t62\nv_2.JPEG\tn01\t9\t1\n'
         'v_3.JPEG\tn01\t0\t32\n'),  # Tiny ImageNet's
        ('labels.csv', '\ufefflabel;file\r\nn02;v_1.JPEG\r\nn01;./v_2.JPEG\r\nn01;v_3.JPEG'),
        ('labels.csv', 'id,width,class\nv_1,1,n02\nv_2,0,n01\nv_3,0,n01\nunused,0,n01\n'),
    ],
)  # fmt: skip
def test_a_list_of_labels(make, name, text):
    folder = make(*LABELED, **{name: text})
    layout = find_layout(folder)
    assert files_of(layout.eval) == ['v_2.JPEG=0', 'v_3.JPEG=0', 'v_1.JPEG=1']
    assert any(f'labels of 3 images from {folder}/{name}' in note for note in layout.notes)


def test_a_folder_of_images_in_the_split(make):
    names = [name.replace('val/', 'val/images/') for name in LABELED]
    folder = make(*names, **{'val/list.txt': 'v_1.JPEG n01\nv_2.JPEG n01\nv_3.JPEG n02\n'})
    assert files_of(find_layout(folder).eval)[-1] == 'images/v_3.JPEG=1'


@pytest.mark.parametrize(
    'text',
    [
        f'text,source\n{"word " * 30_000},book\n',
        'text,source\n"an open quote,book\n' + 'a,b\n' * 50_000,
    ],
    ids=['long field', 'open quote'],
)
def test_other_files_beside_a_list(make, text):
    """Both have a field of more than 131,072 characters, and come before the list."""
    lists = {'captions.csv': text, 'val.csv': 'v_1,n02\nv_2,n01\nv_3,n01\n'}
    layout = find_layout(make(*LABELED, **lists))
    assert files_of(layout.eval) == ['v_2.JPEG=0', 'v_3.JPEG=0', 'v_1.JPEG=1']


def test_training_images_too(make):
    rows = [f'{i},{"ab"[i % 2]}' for i in range(10)]
    folder = make(*images('train/{}.jpg', 10), **{'train.csv': '\n'.join(['id,breed', *rows])})
    layout = find_layout(folder)
    assert layout.classes == ['a', 'b']
    for file, label in zip(layout.train.files, layout.train.labels, strict=True):
        assert int(file.removesuffix('.jpg')) % 2 == label


@pytest.mark.parametrize('name', ['train.csv', 'trainLabels.csv', 'LOC_train_solution.csv'])
def test_both_splits_are_numbered_from_0(make, name):
    folder = make(
        *images('train/{}.jpg', 3), *images('val/{}.jpg', 3),
        **{name: 'id,class\n0,a\n1,b\n2,a\n', 'val.csv': 'id,class\n0,b\n1,a\n2,b\n'},
    )  # fmt: skip
    layout = find_layout(folder)
    assert files_of(layout.train) == ['0.jpg=0', '2.jpg=0', '1.jpg=1']
    assert files_of(layout.eval) == ['1.jpg=0', '0.jpg=1', '2.jpg=1']


@pytest.mark.parametrize('split', ['train', 'dev'])
def test_the_split_that_is_read_tells_which_list_is_its_own(make, split):
    rows = 'id,class\n0,a\n1,b\n'
    folder = make(*images(f'{split}/{{}}.jpg', 2), *PLAIN[2:], **{f'{split}.csv': rows})
    layout = find_layout(folder, train_split=split, eval_split=split)
    assert files_of(layout.train) == files_of(layout.eval) == ['0.jpg=0', '1.jpg=1']


def test_three_splits_are_numbered_from_0(make):
    rows = {'train': 'ab', 'val': 'ba', 'test': 'aa'}
    lists = {f'{s}.csv': f'id,class\n0,{x}\n1,{y}\n' for s, (x, y) in rows.items()}
    layout = find_layout(make(*(f'{s}/{i}.jpg' for s in rows for i in (0, 1)), **lists))
    assert files_of(layout.train) == ['0.jpg=0', '1.jpg=1']
    assert files_of(layout.eval) == ['1.jpg=0', '0.jpg=1']


@pytest.mark.parametrize('are_the_same', [False, True])
def test_images_that_were_moved_into_another_split(make, are_the_same):
    """Which the list of the first still has, unless the names are of others."""
    rows = 'id,class\n0,a\n1,b\n2,b\n3,a\n'
    moved = images('val/{}.jpg', 2) if are_the_same else ['val/2.jpg', 'val/3.jpg']
    folder = make(*images('train/{}.jpg', 2), *moved, **{'train.csv': rows})
    if are_the_same:
        with pytest.raises(BadInput, match=r'train\.csv names the images of .*val, but has'):
            find_layout(folder)
    else:
        assert files_of(find_layout(folder).eval) == ['3.jpg=0', '2.jpg=1']


@pytest.mark.parametrize('row', ['3,', '3,a\n3,b'])
def test_a_list_of_labels_with_a_mistake_is_not_replaced_by_another(make, row):
    sizes = 'id,width\n0,64\n1,65\n2,64\n3,65\n'
    labels = f'id,label\n0,a\n1,b\n2,a\n{row}\n'
    folder = make(*images('train/{}.jpg', 4), **{'labels.csv': labels, 'sizes.csv': sizes})
    with pytest.raises(BadInput, match=r'labels\.csv has (no class|two classes) for 3'):
        find_layout(folder)


def test_folds_are_no_names_of_classes(make):
    rows = 'id,label,fold\nv0,0,1\nv1,1,1\n'
    names = ['train/1/x.jpg', 'train/2/x.jpg', 'val/v0.jpg', 'val/v1.jpg']
    layout = find_layout(make(*names, **{'val.csv': rows}))
    assert files_of(layout.eval) == ['v0.jpg=0', 'v1.jpg=1']


def test_a_list_of_both_splits(make):
    rows = 'id,class\n0,a\n1,b\n2,b\n3,a\n'
    names = [*images('train/{}.jpg', 2), 'val/2.jpg', 'val/3.jpg']
    layout = find_layout(make(*names, **{'train_and_val.csv': rows}))
    assert files_of(layout.train) == ['0.jpg=0', '1.jpg=1']
    assert files_of(layout.eval) == ['3.jpg=0', '2.jpg=1']


def test_a_form_to_fill_in_is_no_list(make):
    """The test set of a competition has no labels."""
    form = 'id,class\nt_1,n01\nt_2,n01\n'
    folder = make(*PLAIN[:2], 'test/t_1.jpg', 'test/t_2.jpg', **{'sample_submission.csv': form})
    with pytest.raises(BadInput) as error:
        find_layout(folder)
    assert_has(str(error.value), 'test has 2 images', f'remove {folder}/test to hold out')


def test_lists_that_differ(make):
    """A column with the title of classes decides; otherwise somebody has to."""
    rows = [f'{i},{"ab"[i % 2]}' for i in range(4)]
    sizes = ['id,width', *(f'{i},{64 + i}' for i in range(4))]
    pictures = images('train/{}.jpg', 4)
    folder = make(
        *pictures,
        **{'sizes.csv': '\n'.join(sizes), 'tags.csv': '\n'.join(['id,breed', *rows])},
    )
    assert find_layout(folder).classes == ['a', 'b']
    folder = make(*pictures, **{'tags.csv': '\n'.join(['id,kind', *rows])})
    with pytest.raises(BadInput) as error:
        find_layout(folder)
    assert_has(str(error.value), 'sizes.csv and', 'tags.csv differ', '0.jpg of', "'64' and 'a'")


@pytest.mark.parametrize('titles', ['filename,target,category', 'file,label,name', '?,?,?'])
def test_names_of_classes_before_numbers_of_the_authors(make, titles):
    """Who numbers n02 before n01."""
    text = f'{titles}\nv_1.JPEG,0,n02\nv_2.JPEG,1,n01\nv_3.JPEG,1,n01\n'
    layout = find_layout(make(*LABELED, **{'val.csv': text}))
    assert files_of(layout.eval) == ['v_2.JPEG=0', 'v_3.JPEG=0', 'v_1.JPEG=1']


@pytest.mark.parametrize(
    ('row', 'parts'),
    [
        ('3,', ['train.csv has no class for 3', 'add it']),
        ('3,a\n3,b', ["two classes for 3, 'a' and 'b'", 'leave one']),
    ],
)
def test_an_image_has_one_class(make, row, parts):
    folder = make(*images('train/{}.jpg', 4), **{'train.csv': f'id,class\n0,a\n1,b\n2,a\n{row}\n'})
    with pytest.raises(BadInput) as error:
        find_layout(folder)
    assert_has(str(error.value), *parts)


def test_an_image_named_twice(make):
    """As where each row is an object."""
    text = 'id,class\n0,a\n1,b\n0,a\n2,a\n3,b\n'
    folder = make(*images('train/{}.jpg', 4), **{'train.csv': text})
    layout = find_layout(folder)
    assert len(layout.train.files) + len(layout.eval.files) == 4


@pytest.mark.parametrize(
    ('titles', 'rows'),
    [
        ('image,MEL,NV,BCC', ['1.0,0.0,0.0', '0.0,1.0,0.0', '0.0,0.0,1.0', '1.0,0.0,0.0']),
        ('image,age,diagnosis', ['61,NV', '45,MEL', '38,NV', '70,BCC']),
    ],
)
def test_several_columns_of_which_none_says_that_it_has_the_classes(make, titles, rows):
    lines = [titles, *(f'{i}.jpg,{row}' for i, row in enumerate(rows))]
    folder = make(*images('{}.jpg', 4), **{'labels.csv': '\n'.join(lines)})
    with pytest.raises(BadInput) as error:
        find_layout(folder)
    columns = titles.removeprefix('image,').replace(',', ', ')
    parts = (
        f"{folder}/labels.csv has the columns {columns}, none of which is called 'class' or ",
        'rename',
    )
    assert_has(str(error.value), *parts)


@pytest.mark.parametrize(
    'lines',
    [
        ['age,image,Diagnosis,class', '61,0.jpg,x,a', '45,1.jpg,y,b', '38,2.jpg,z,a'],
        ['0.jpg,a,61', '1.jpg,b,45', '2.jpg,a,38'],  # no titles
        ['0,a,61', '1,b,45', '2,a,38'],
    ],
)
def test_the_column_of_the_classes_is_the_titled_one_or_the_first(make, lines):
    folder = make(*images('{}.jpg', 3), **{'labels.csv': '\n'.join(lines)})
    assert find_layout(folder).classes == ['a', 'b']


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-16-le', 'utf-16-be'])
def test_as_windows_writes_a_list(tmp_path, encoding):
    """With a mark of the encoding in front, and names with backslashes."""
    text = '\ufefffile,label\r\nx\\1.jpg,é\r\n.\\y\\1.jpg,b\r\n'
    (tmp_path / 'labels.csv').write_bytes(text.encode(encoding))
    found = find_labels(str(tmp_path), str(tmp_path), ['x/1.jpg', 'y/1.jpg'], None)
    assert found == (f'{tmp_path}/labels.csv', ['é', 'b'])


def test_a_list_in_which_all_images_have_one_class(make):
    folder = make('1.jpg', '2.jpg', **{'labels.csv': 'id,class\n1,cat\n2,cat\n'})
    with pytest.raises(BadInput) as error:
        find_layout(folder)
    assert_has(str(error.value), f'{folder}/labels.csv has only one class, cat, for all images')


@pytest.mark.parametrize('folder', ['', 'train/'])
def test_a_list_that_is_used_is_not_skipped(make, folder):
    names = images(folder + '{}.jpg', 4)
    rows = 'id,class\n0,a\n1,b\n2,a\n3,b\n'
    notes = find_layout(make(*names, **{f'{folder}labels.csv': rows})).notes
    assert not any('skipping' in note for note in notes)
    (note,) = [n for n in find_layout(make(f'{folder}x.heic')).notes if 'skipping' in n]
    assert_has(note, '1 file that is', '1 .heic')


@pytest.mark.parametrize(
    ('name', 'text', 'named'),
    [
        ('labels.csv', 'file,label\nimages/v1.jpg,n01\n', 'images/v1.jpg'),
        ('labels.csv', 'id,label\nv1,n01\nv2,n02\n', 'v2'),
        ('val.txt', 'v1.jpg n01\n', 'v1.jpg'),
        ('README.txt', 'Photos of animals\n', None),
    ],
)
def test_a_list_that_names_no_image_is_told(make, name, text, named):
    with pytest.raises(BadInput) as error:
        find_layout(make(*LABELED, **{name: text}))
    told = f'/{name} names none of them (it has, for example, {named!r})'
    assert (told in str(error.value)) == (named is not None)


@pytest.mark.parametrize(
    ('text', 'parts'),
    [
        ('v_1 n01\nv_2 n01\n', ['val.txt has no label for v_3.JPEG', '1 images']),
        ('v_1 n01\nv_2 n09\nv_3 n02\n', ["val.txt has the class 'n09'", "'n01'", '0 to 1']),
        ('v_1 1\nv_2 2\nv_3 1\n', ["'1'", '0 to 1']),
        ('1\n2\n1\n', ['val has 3 images but no class folders', 'IMAGE,CLASS']),
        ('', ['val has 3 images but no class folders', 'IMAGE,CLASS']),
    ],
)
def test_lists_that_do_not_fit(make, text, parts):
    with pytest.raises(BadInput) as error:
        find_layout(make(*LABELED, **{'val.txt': text}))
    assert_has(str(error.value), *parts)
