"""Names of images in class folders, and the files of a split as text."""

PLAIN = ('train/a/x.jpg', 'train/b/x.jpg', 'validation/a/y.jpg', 'validation/b/y.jpg')


def images(pattern: str, count: int) -> list[str]:
    """'a/{}.jpg', 2: a/0.jpg and a/1.jpg."""
    return [pattern.format(i) for i in range(count)]


def files_of(split) -> list[str]:
    """'a/x.jpg=0': the files with their labels."""
    return [f'{file}={label}' for file, label in zip(split.files, split.labels, strict=True)]
