"""The datasets that a config can name, and the table of their kinds.

To add a kind, write a file with a subclass of `splits.Source` and add its line to `KINDS`.
"""

import pkgutil

import ml_collections

from alexnet_jax.data.sources.splits import Dataset, Source
from alexnet_jax.errors import BadInput

# kind: its class, as file:class, and the form of config.data.name for such a dataset. The file is
# imported only when it is needed: the one for TFDS takes a second.
KINDS = {
    'digits': ('digits:Digits', 'digits'),
    'tfds': ('tfds:TFDS', 'tfds:NAME[/CONFIG][:VERSION] (e.g. tfds:cifar10)'),
    'folder': ('folder:Folder', 'folder:PATH'),
    'prepared': ('prepared:Prepared', 'prepared:DIR'),
}


def find_source(
    config_data: ml_collections.ConfigDict, process_index: int = 0, manual_dir: str | None = None
) -> Source:
    """Return the source that `config.data` names, not yet opened.

    Args:
      config_data: `config.data`; name, data_dir, train_split, eval_split and eval_fraction
        are read.
      process_index: The index of this process: process 0 downloads, the others wait for it.
      manual_dir: The folder of the manually downloaded archives of a TFDS dataset.

    Raises:
      BadInput: An unknown kind.
    """
    kind, colon, name = config_data.name.partition(':')
    place, form = KINDS.get(kind, ('', ''))
    well_formed = bool(name) if ':' in form else bool(form) and not colon
    if not well_formed:
        allowed = ', '.join(form for _, form in KINDS.values())
        raise BadInput(f'unknown dataset data.name={config_data.name!r}; allowed: {allowed}')
    source: type[Source] = pkgutil.resolve_name(f'{__name__}.{place}')
    splits = (config_data.train_split, config_data.eval_split)
    fraction = config_data.eval_fraction
    return source(name, splits, config_data.data_dir or None, process_index, manual_dir, fraction)


def open_source(
    config_data: ml_collections.ConfigDict, process_index: int = 0, manual_dir: str | None = None
) -> Dataset:
    """Open the dataset that `config.data` names; download and prepare it first if necessary.

    Args:
      config_data, process_index, manual_dir: As in `find_source`.

    Raises:
      BadInput: An unknown kind, dataset or split, or a folder that is not laid out as expected.
      RunError: A failed download.
    """
    return find_source(config_data, process_index, manual_dir).open()
