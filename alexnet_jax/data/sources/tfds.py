"""TFDS datasets: read from disk if they are ArrayRecord, held in memory if they are TFRecord."""

import contextlib
import difflib
import logging
import sys
import time
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow_datasets as tfds
from absl import logging as absl_logging
from tqdm import tqdm

from alexnet_jax.data import tensorflow  # noqa: F401 (set up before TFDS uses it)
from alexnet_jax.data.sources.splits import Dataset, MemorySplit, Source, Split
from alexnet_jax.data.sources.tfds_prepare import manual_message, prepare, prepare_command
from alexnet_jax.errors import BadInput

IN_MEMORY_BYTES = 4 * 2**30


class TFDS(Source):
    """A TFDS dataset of classified images; its name is NAME[/CONFIG][:VERSION]."""

    def to_prepare(self) -> str | None:
        with _quiet():
            builder = _builder(self.name, self.data_dir)
        if builder.is_prepared():
            return None
        if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
            raise BadInput(manual_message(builder, self.name, None))
        return (
            f'tfds:{self.name} is not prepared in {builder.data_dir_root}: the first run downloads '
            f'and prepares it there'
        )

    def open(self) -> Dataset:
        with _quiet():
            builder = _builder(self.name, self.data_dir)
            keys = _keys(builder, self.name)
            if not builder.is_prepared():
                if self.process_index == 0:
                    prepare(builder, self.name, self.manual_dir)
                else:
                    print(
                        f'waiting for process 0 to prepare tfds:{self.name} in '
                        f'{builder.data_dir_root}, which must be a folder that all hosts share',
                        file=sys.stderr,
                        flush=True,
                    )
                while not builder.is_prepared():
                    time.sleep(1)
                builder = _builder(self.name, self.data_dir)
            train, evaluation = (
                _tfds_split(builder, self.name, split, *keys) for split in self.splits
            )
        class_names = tuple(builder.info.features[keys[1]].names)
        return Dataset(class_names, train, evaluation, f'tfds {builder.info.full_name}')


class RecordSplit(Split):
    """Encoded examples in ArrayRecord files, read from disk on demand."""

    def __init__(
        self,
        prefix: str,
        records: Sequence[dict],
        image_key: str,
        label_key: str,
        name_key: str | None,
    ):
        """Take the records and the names of their features; `describe` gives 'PREFIX:INDEX'."""
        self.prefix = prefix
        self.records = records
        self.image_key = image_key
        self.label_key = label_key
        self.name_key = name_key  # of the feature that holds the file name

    def __len__(self) -> int:
        return len(self.records)

    def read(self, indices: np.ndarray) -> tuple[list[bytes], np.ndarray]:
        # One by one: 7,700 records/s of 110 KB on two cores; `__getitems__` reached 2,800.
        examples = [self.records[int(i)] for i in indices]
        labels = np.array([e[self.label_key] for e in examples], np.int32)
        return [e[self.image_key] for e in examples], labels

    def describe(self, index: int) -> str:
        return f'{self.prefix}:{index}'

    def file_names(self, indices: np.ndarray) -> list[str]:
        if self.name_key is None:
            return super().file_names(indices)
        names = (self.records[i][self.name_key] for i in indices.tolist())
        return [name.decode('utf-8', 'surrogateescape') for name in names]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep TFDS's notes (absl) and urllib3's retries off the terminal; errors are still raised."""
    urllib3 = logging.getLogger('urllib3')
    levels = absl_logging.get_verbosity(), urllib3.level
    absl_logging.set_verbosity(absl_logging.ERROR)
    urllib3.setLevel(logging.ERROR)
    try:
        yield
    finally:
        absl_logging.set_verbosity(levels[0])
        urllib3.setLevel(levels[1])


def _builder(name: str, data_dir: str | None) -> tfds.core.DatasetBuilder:
    try:
        return tfds.builder(name, data_dir=data_dir, try_gcs=False)
    except tfds.core.DatasetNotFoundError as error:
        known = tfds.list_builders(with_community_datasets=False)
        close = difflib.get_close_matches(name.split(':')[0].split('/')[0], known)
        hint = f'did you mean {" or ".join(close)}?' if close else 'tfds.list_builders() lists them'
        raise BadInput(f'TFDS has no dataset {name!r}; {hint}') from error
    except (ValueError, AssertionError, ImportError) as error:
        raise BadInput(f'data.name=tfds:{name}: {str(error).strip().splitlines()[0]}') from error


def _keys(builder: tfds.core.DatasetBuilder, name: str) -> tuple[str, str]:
    """Return the names of the features that hold the image and the label."""
    features = builder.info.features
    images = [k for k, f in features.items() if isinstance(f, tfds.features.Image)]
    labels = [k for k, f in features.items() if isinstance(f, tfds.features.ClassLabel)]
    supervised = tuple(builder.info.supervised_keys or ())
    if len(supervised) == 2 and supervised[0] in images and supervised[1] in labels:
        return supervised
    if len(images) == 1 and len(labels) == 1:
        return images[0], labels[0]
    raise BadInput(
        f'tfds:{name} is not an image classification dataset: it has {len(images)} image and '
        f'{len(labels)} class label features, and no supervised pair of them'
    )


def _tfds_split(
    builder: tfds.core.DatasetBuilder, name: str, split: str, image_key: str, label_key: str
) -> Split:
    try:
        size = builder.info.splits[split].num_examples
        parts = tfds.core.ReadInstruction.from_spec(split).to_absolute(builder.info.splits)
    except (ValueError, NotImplementedError) as error:  # the latter for a part of 'all'
        reason = str(error).strip().splitlines()[-1].rstrip('.')
        raise BadInput(
            f'tfds:{name} has no split {split!r} ({reason}); allowed: '
            f'{", ".join(builder.info.splits)}, or a part such as train[:90%]'
        ) from error
    # For a reversed slice such as train[5%:1%], TFDS may report a negative size.
    if not size or any(part.to is not None and part.to < (part.from_ or 0) for part in parts):
        raise BadInput(f'the split {split} of tfds:{name} is empty or contains a reversed slice')
    prefix = f'{name}/{split}'
    decoders = {image_key: tfds.decode.SkipDecoding()}
    if builder.info.file_format == tfds.core.FileFormat.ARRAY_RECORD:
        records = builder.as_data_source(split=split, decoders=decoders)
        name_key = 'file_name' if 'file_name' in builder.info.features else None
        return RecordSplit(prefix, records, image_key, label_key, name_key)
    _check_memory(builder, name, split, size)
    return MemorySplit(prefix, *_load(builder, split, size, decoders, image_key, label_key))


def _check_memory(builder: tfds.core.DatasetBuilder, name: str, split: str, size: int) -> None:
    info = builder.info
    total = sum(s.num_examples for s in info.splits.values())
    expected = int(info.dataset_size) * size // total
    if expected > IN_MEMORY_BYTES:
        root = builder.data_dir_root
        other = f'{root}_array_record'
        raise BadInput(
            f'tfds:{name} is prepared as {info.file_format.name} in {root}, without random access, '
            f'and its split {split} takes {expected / 2**30:.1f} GiB, above the '
            f'{IN_MEMORY_BYTES // 2**30} GiB allowed in memory. Prepare it as ArrayRecord: '
            f'{prepare_command(builder, name, other, root / "downloads" / "manual")} and set '
            f'--config.data.data_dir={other}'
        )


def _load(
    builder: tfds.core.DatasetBuilder,
    split: str,
    size: int,
    decoders: dict,
    image_key: str,
    label_key: str,
) -> tuple[list[bytes], np.ndarray]:
    """Return all encoded images of a split, in file order, and their labels."""
    dataset = builder.as_dataset(
        split=split,
        decoders=decoders,
        shuffle_files=False,
        read_config=tfds.ReadConfig(interleave_cycle_length=1),  # does not interleave shards
    )
    dataset = dataset.map(lambda e: (e[image_key], e[label_key])).batch(1000)
    images, labels = [], []
    with tqdm(total=size, desc=f'loading {split}', unit=' images', delay=2, disable=None) as bar:
        for batch_images, batch_labels in dataset.as_numpy_iterator():
            images += list(batch_images)
            labels.append(batch_labels)
            bar.update(len(batch_labels))
    return images, np.concatenate(labels)
