"""What `doctor` says of labels."""

import numpy as np
import pytest
from etils import epath

from alexnet_jax.data.examine import _count_classes
from alexnet_jax.data.sources.prepared_split import RECORDS, PreparedSplit, SplitFiles, write_index
from alexnet_jax.data.sources.splits import Split


class Labels(Split):
    """A split of 2,000 examples whose labels have to be read: all 0, but for these."""

    def __init__(self, **others: int):
        self._labels = np.zeros(2000, np.int32)
        for index, label in others.items():
            self._labels[int(index[1:])] = label

    def __len__(self) -> int:
        return len(self._labels)

    def read(self, indices: np.ndarray) -> tuple[list[bytes], np.ndarray]:
        return [b''] * len(indices), self._labels[indices]

    def describe(self, index: int) -> str:
        return f'set/test:{index}'


@pytest.mark.parametrize(
    ('labels', 'text'),
    [
        (
            {'i0': -1, 'i1999': -1},
            'set/test:0 has no label; use only splits in which every example has one',
        ),
        ({'i1999': -1}, 'set/test:1999 has no label; use only splits'),
        ({'i1999': 2}, 'test has labels outside 0 .. 1; prepare it again'),
    ],
)
def test_labels_that_cannot_be_used(labels, text):
    is_ok, found = _count_classes('test', Labels(**labels), ('a', 'b'), False)
    assert (is_ok, found.startswith(text)) == (False, True), found


def test_a_class_without_examples_in_a_prepared_set(tmp_path):
    """All its labels are in the index, so that none of its images, which are absent, is read."""
    files = SplitFiles('train', (3,), RECORDS)
    write_index(epath.Path(tmp_path), files, [2, 0, 2], ['1.png', '2.png', '3.png'])
    split = PreparedSplit(epath.Path(tmp_path), files, 16)
    found = _count_classes('train', split, ('a', 'b', 'c'), True)
    assert found == (False, 'train has no examples of 1 class: b; add some')
