"""Folders of files of no content, told by their names."""

import pytest


@pytest.fixture
def make(tmp_path):
    """make('train/a/x.jpg', ..., **{'val.csv': 'content'}) -> the folder of these files."""

    def run(*names, **contents):
        for name in (*names, *contents):
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if name.endswith('/'):
                path.mkdir(exist_ok=True)
            else:
                path.write_bytes(contents.get(name, '').encode('utf-8', 'surrogateescape'))
        return str(tmp_path)

    return run
