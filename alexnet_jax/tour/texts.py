"""The page's texts in each language: `texts.toml` is the table of them."""

import functools
import tomllib
from pathlib import Path
from typing import Any

LANGUAGES = ('en', 'vi')
_FILE = Path(__file__).with_name('texts.toml')


@functools.cache
def table() -> dict[str, dict[str, str]]:
    """Return the texts by key and language."""
    return tomllib.loads(_FILE.read_text(encoding='utf-8'))


class Texts:
    """The texts in one language: `Texts('vi')('tower', number=2)` returns 'nhánh 2'."""

    def __init__(self, language: str):
        self._language = language

    def __call__(self, key: str, **values: Any) -> str:
        """Return the text of a key, filled in with values."""
        return table()[key][self._language].format(**values)

    def definition(self, row: dict[str, Any]) -> str:
        """Return what a row of the table of layers says about its layer."""
        values = row['definition']
        if 'filters' in values:
            parts = [self('def_filters', **values)]
        elif 'local_filters' in values:
            parts = [self('def_local_filters', **values)]
        elif 'F' in values:
            parts = [self('def_window', **values)]
            parts += [self('overlapping')] * row['overlapping']
        elif 'W' in values:
            parts = [f'W {values["W"]}']
        else:
            parts = [f'{name} = {value}' for name, value in values.items()]
        return ', '.join([*parts, *row['followers']])

    def explain(self, section: dict[str, Any]) -> str:
        """Return what a layer and its followers do."""
        key = f'explain_{section["kind"]}'
        parts = [self(key if key in table() else 'explain_other')]
        for kind in section['followers']:
            is_dropout = kind == 'Dropout'
            parts.append(self('then_Dropout') if is_dropout else self('then_activation', name=kind))
        return ' '.join(parts)
