"""ImageNet's ids and words, against facts that are known from elsewhere."""

import re

import pytest

from alexnet_jax.evaluation.class_words import display_names, imagenet_ids


def test_the_ids_are_in_label_order():
    ids = imagenet_ids()
    assert (len(ids), len(set(ids))) == (1000, 1000)
    assert ids == sorted(ids)
    assert all(re.fullmatch(r'n\d{8}', name) for name in ids)


@pytest.mark.parametrize(
    ('label', 'wordnet_id', 'words'),
    [
        (0, 'n01440764', 'tench'),
        (134, 'n02012849', 'crane bird'),
        (281, 'n02123045', 'tabby'),
        (517, 'n03126707', 'crane'),
        (817, 'n04285008', 'sports car'),
        (999, 'n15075141', 'toilet tissue'),
    ],
)
def test_labels_and_words(label, wordnet_id, words):
    """The labels of well-known examples; the bird and the machine differ."""
    assert imagenet_ids()[label] == wordnet_id
    assert display_names([wordnet_id]) == [words]


def test_no_two_classes_are_called_the_same():
    names = display_names(imagenet_ids())
    assert len(set(names)) == 1000
    assert all(name == name.strip() and name for name in names)


def test_other_names_stay():
    assert display_names(['cat', 'n00000000', 'n01440764']) == ['cat', 'n00000000', 'tench']
    assert display_names(['tench', 'n01440764']) == ['tench', 'n01440764 (tench)']
    assert display_names([]) == []
