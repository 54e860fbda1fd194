"""EXPERIMENTS.md: the table of all claims, and the table of each, written from the records.

They stand between `<!-- NAME -->` and `<!-- /NAME -->`, where NAME is `claims` or an experiment's.
What is outside these marks is written by hand.
"""

import itertools
import re
from collections.abc import Mapping
from pathlib import Path

from alexnet_jax import files
from alexnet_jax.errors import BadInput
from alexnet_jax.experiments.experiment import Experiment, devices
from alexnet_jax.experiments.records import Records
from alexnet_jax.experiments.statistics import NOT_RUN
from alexnet_jax.experiments.tables import markdown

HEADER = ('claim', 'source', 'published', 'measured, ± half of the 95% interval', 'verdict',
          '`python -m alexnet_jax.experiments` ...', 'cost')  # fmt: skip


def claims(experiments: Mapping[str, Experiment], records: Records) -> str:
    """Return the table of all claims."""
    rows = [
        [
            f'[{experiment.claim}](#{slug(experiment.claim)})',
            experiment.source,
            experiment.published,
            experiment.summary(records),
            f'**{experiment.verdict(records)}**',
            f'`{command(name, experiment, records)}`',
            hours(experiment.cost(experiment.seeds_behind(records))),
        ]
        for name, experiment in experiments.items()
    ]
    return markdown(HEADER, rows)


def command(name: str, experiment: Experiment, records: Records) -> str:
    """Return what to type after `python -m alexnet_jax.experiments`."""
    count = experiment.seeds_behind(records)
    seeds = f'--seeds={count}' if count > 1 else ''
    return ' '.join(word for word in (name, seeds, experiment.flags) if word)


def slug(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    return re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-')


def hours(minutes: float) -> str:
    """Return '45 min' or '2.5 h'."""
    return f'{minutes:.0f} min' if minutes < 90 else f'{minutes / 60:.1f} h'


def section(name: str, experiment: Experiment, records: Records) -> str:
    """Return an experiment's heading, command and rule, and its table once it is begun."""
    verdict = experiment.verdict(records)
    is_begun = verdict != NOT_RUN or records.path(name).exists()
    table = f'\n\n{experiment.table(records)}' if is_begun else ''
    found = itertools.chain(*experiment.found(name, records).values())
    if (kinds := devices(found)) and kinds != ['cpu']:
        table += f'\n\nRun on: {", ".join(kinds)}.'
    return (
        f'## {experiment.claim}\n\n'
        f'`python -m alexnet_jax.experiments {command(name, experiment, records)}`: '
        f'**{verdict}**. Rule: {experiment.rule()}.{table}'
    )


def blocks(experiments: Mapping[str, Experiment], records: Records) -> dict[str, str]:
    """Return what stands between the marks, by name."""
    return {
        'claims': claims(experiments, records),
        **{name: section(name, each, records) for name, each in experiments.items()},
    }


def filled(text: str, contents: Mapping[str, str]) -> str:
    """Return a page with its blocks replaced.

    Raises:
      BadInput: The page lacks the marks of a block.
    """
    for name, content in contents.items():
        between = re.compile(rf'(<!-- {name} -->\n).*?(<!-- /{name} -->)', re.DOTALL)
        if not between.search(text):
            raise BadInput(f'the page has no <!-- {name} --> ... <!-- /{name} -->; add them')
        text = between.sub(lambda match, new=content: f'{match[1]}{new}\n{match[2]}', text)
    return text


def update(path: Path, experiments: Mapping[str, Experiment], records: Records) -> str:
    """Rewrite the blocks of a page; return the table of claims.

    Raises:
      BadInput: There is no such page, or it lacks the marks of a block.
    """
    if not path.exists():
        raise BadInput(f'there is no {path} here; run this in a checkout')
    contents = blocks(experiments, records)
    files.write(path, filled(path.read_text(), contents))
    return contents['claims']
