"""Set images aside for validation, where there is no folder of them; imports no TensorFlow."""

import hashlib

from alexnet_jax.data.sources.labels import nfc
from alexnet_jax.errors import BadInput


def split_by_hash(
    files: dict[str, list[str]], fraction: float
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return the images of each class that train, and those that are for validation.

    Where an image goes depends on its own path only, so that it stays there when others are added.
    But every class keeps an image to train with, and if no image were for validation, one of each
    class is.
    """
    train: dict[str, list[str]] = {}
    evaluation: dict[str, list[str]] = {}
    for name, paths in files.items():
        hashes = {path: _hash(path) for path in paths}
        chosen = {path for path in paths if hashes[path] < fraction}
        if len(chosen) == len(paths):
            chosen.discard(max(hashes, key=hashes.__getitem__))
        train[name] = [path for path in paths if path not in chosen]
        evaluation[name] = [path for path in paths if path in chosen]
    if not any(evaluation.values()):
        for name, paths in train.items():
            if len(paths) > 1:
                first = min(paths, key=_hash)
                paths.remove(first)
                evaluation[name] = [first]
    if not any(evaluation.values()):
        raise BadInput('no class has two images, so none is left for validation; add images')
    return train, evaluation


def _hash(path: str) -> float:
    """Return a number from 0 to 1 that depends on a path in NFC, the same on every machine."""
    digest = hashlib.sha256(nfc(path).encode('utf-8', 'surrogateescape')).digest()
    return int.from_bytes(digest[:8]) / 2**64
