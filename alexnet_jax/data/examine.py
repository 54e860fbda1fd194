"""Check a dataset before a run: that its images decode, and that its labels have classes."""

from collections.abc import Iterator

import ml_collections
import numpy as np

from alexnet_jax.data import pipeline, sources
from alexnet_jax.data.ops.chain import Preprocessor, clean, parse
from alexnet_jax.data.reader import IMAGE_ERRORS, max_bad
from alexnet_jax.data.sources.splits import Split

SAMPLE_IMAGES = 50  # how many of each split are decoded
SAMPLE_LABELS = 1000  # how many are read of a split whose labels are not in memory

Finding = tuple[bool, str]  # whether all is well, and the text


def examine_data(config: ml_collections.ConfigDict) -> Iterator[Finding]:
    """Decode some images of a config's dataset, count its classes and open its pipeline.

    Args:
      config: A recipe. A dataset that its run would first have to prepare is not looked at.

    Yields:
      Findings.

    Raises:
      BadInput: The dataset cannot be opened, or does not suit the config.
    """
    source = sources.find_source(config.data)
    if note := source.to_prepare():
        yield True, note
        return
    dataset = source.open()
    splits = {config.data.train_split: dataset.train, config.data.eval_split: dataset.eval}
    sizes = ', '.join(f'{len(split):,} {name}' for name, split in splits.items())
    yield True, f'{config.data.name} has {sizes} examples of {len(dataset.class_names):,} classes'
    preprocessor = parse('decode', config.data.max_pixels)
    for split in splits.values():
        specialized = preprocessor.specialize(split)  # a raw set has no images to decode
        yield _decode_sample(specialized, split, config.data.on_bad_image)
    for name, split in splits.items():
        is_training = name == config.data.train_split
        yield _count_classes(name, split, dataset.class_names, is_training)
    del dataset, splits, split
    data = pipeline.Data(config)
    size, count = config.image_size, len(data.class_names)
    outputs = f'the network has {config.num_classes:,} outputs'
    if count < config.num_classes:
        outputs += f' for {count:,} classes; --config.num_classes={count} is enough'
    yield True, f'the ops produce images of {size} x {size}; {outputs}'


def _decode_sample(preprocessor: Preprocessor, split: Split, on_bad_image: str) -> Finding:
    """Whether some examples of a split, evenly spaced, decode."""
    indices = _spread(len(split), SAMPLE_IMAGES)
    bad = {}
    for index in indices.tolist():
        try:
            preprocessor(split.read(np.array([index]))[0][0])
        except IMAGE_ERRORS as error:
            bad[split.describe(index)] = clean(error)
    if not bad:
        first, last = split.describe(0), split.describe(len(split) - 1)
        return True, f'{len(indices)} images decode, from {first} to {last}'
    name, reason = next(iter(bad.items()))
    text = f'{len(bad)} of {len(indices)} images are unusable, the first {name}: {reason}'
    if on_bad_image == 'stop':
        return False, f'{text}; fix or remove it, or set --config.data.on_bad_image=skip'
    most = max_bad(len(split))
    probably = len(bad) * len(split) // len(indices)
    is_few = len(bad) == 1 or probably <= most
    more = '' if is_few else f'; there are probably about {probably:,}: fix or remove them'
    return is_few, f'{text}; a run skips up to {most:,}{more}'


def _count_classes(
    name: str, split: Split, class_names: tuple[str, ...], is_training: bool
) -> Finding:
    """How many examples of each class a split has."""
    labels, indices = split.labels, np.arange(len(split))
    is_sample = labels is None
    if is_sample:
        indices = _spread(len(split), SAMPLE_LABELS)
        labels = split.read(indices)[1]
    if (labels < 0).any():  # TFDS gives -1 to examples without a label: ImageNet's test split
        first = split.describe(int(indices[labels < 0][0]))
        return False, f'{first} has no label; use only splits in which every example has one'
    counts = np.bincount(labels, minlength=len(class_names))
    if len(counts) > len(class_names):
        return False, f'{name} has labels outside 0 .. {len(class_names) - 1}; prepare it again'
    if is_sample:
        seen = np.count_nonzero(counts)
        return True, f'{name}: {seen:,} classes in {len(labels):,} evenly spaced examples'
    low, high = int(counts.argmin()), int(counts.argmax())
    if counts[low] == 0:
        empty = [class_names[i] for i in np.flatnonzero(counts == 0)]
        names = ', '.join(empty[:5]) + (' ...' if len(empty) > 5 else '')
        text = f'{name} has no examples of {len(empty):,} class{"es" * (len(empty) > 1)}: {names}'
        if is_training:
            return False, f'{text}; add some'
        return True, f'{text}, so that accuracy says nothing about them'
    return True, (
        f'{name}: {counts[low]:,} ({class_names[low]}) to {counts[high]:,} ({class_names[high]}) '
        f'examples per class'
    )


def _spread(size: int, most: int) -> np.ndarray:
    """At most `most` evenly spaced indices from 0 to size - 1."""
    return np.unique(np.linspace(0, size - 1, min(size, most)).astype(int))
