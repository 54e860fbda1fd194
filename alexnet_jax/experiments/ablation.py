"""Experiments that compare a net with others that lack a part of it."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from alexnet_jax.drawing import figures
from alexnet_jax.experiments.experiment import (
    Comparison,
    Experiment,
    NextTrial,
    Values,
    difference,
    final_errors,
    intervals,
    measured,
    training_errors,
)
from alexnet_jax.experiments.records import Records, Trial, smooth
from alexnet_jax.experiments.statistics import Rule
from alexnet_jax.experiments.tables import (
    estimated,
    first_left,
    markdown,
    number,
    of_list,
    reached,
    spread,
)


@dataclasses.dataclass(frozen=True)
class Arm:
    """A net in a comparison.

    Attributes:
      label: Its name in tables and figures.
      trial: Its training run.
      rule: How its difference from the base decides; None if it is only reported.
      ten_crops: A scoring of ten crops of each image, if there is one.
    """

    label: str
    trial: Trial
    rule: Rule | None = None
    ten_crops: Trial | None = None


def change(trial: Trial, name: str, home: str | None = None, **overrides: Any) -> Trial:
    """Return a trial with other overrides; `__` in a key stands for a dot."""
    changed = {key.replace('__', '.'): value for key, value in overrides.items()}
    return dataclasses.replace(
        trial, home=home or trial.home, name=name, overrides={**trial.overrides, **changed}
    )


def ablation(
    claim: str,
    source: str,
    published: str,
    base: Arm,
    others: Sequence[Arm],
    *,
    minutes: float,
    deviation: float,
    pooled: Sequence[Values] = (),
    has_curves: bool = False,
    **settings: Any,
) -> Experiment:
    """Return an experiment whose claim is that the others make more errors than the base.

    Args:
      claim, source, published, minutes: As in `Experiment`.
      base: The net that the claim favors.
      others: The nets that lack a part of it.
      deviation, pooled: As in `Comparison`.
      has_curves: Whether the figure shows the learning curves, instead of the differences.
      settings: Other attributes of the experiment.
    """
    arms = [base, *others]
    pairs = [(arm.trial, arm.ten_crops) for arm in arms]
    comparisons = [
        Comparison(
            f'{arm.label} - {base.label}',
            difference(final_errors(arm.trial), final_errors(base.trial)),
            arm.rule,
            deviation,
            pooled=pooled,
            nets=(final_errors(arm.trial), final_errors(base.trial)),
        )
        for arm in others
    ]

    def table(records: Records) -> str:
        rows = []
        for arm, comparison in zip(arms, [None, *comparisons], strict=True):
            errors, training = (
                list(values(arm.trial)(records).values())
                for values in (final_errors, training_errors)
            )
            change = comparison.text(records) if comparison else ''
            epochs = reached(records.of(arm.trial))
            row = [arm.label, epochs, _mean(training), spread(errors, '.2f'), change]
            if arm.ten_crops:
                views = list(measured(arm.ten_crops, 'errors', 0)(records).values())
                row.append(spread(views, '.2f'))
            rows.append(row)
        header = ['net', 'epochs', 'training error, %', 'test error, %', 'difference']
        if base.ten_crops:
            header.append('with ten crops, %')
        return markdown(header, rows)

    def figure(records: Records) -> Figure | None:
        return learning_curves(arms, records) if has_curves else intervals(comparisons, records)

    return Experiment(
        claim,
        source,
        published,
        nets_and_crops(pairs),
        comparisons,
        table,
        minutes,
        trials=trials_of(pairs),
        figure=figure,
        **settings,
    )


def nets_and_crops(pairs: Sequence[tuple[Trial, Trial | None]]) -> tuple[NextTrial, NextTrial]:
    """Return two stages: the nets, then the scoring of those that did not diverge.

    Scoring needs workdirs, which recorded runs may have lost: no net should have to wait for it.
    """

    def scorings(records: Records, seed: int) -> Trial | None:
        finished = (crops for net, crops in pairs if crops and records.is_finished(net, seed))
        return first_left(finished, records, seed)

    return of_list([net for net, _ in pairs]), scorings


def trials_of(pairs: Sequence[tuple[Trial, Trial | None]]) -> list[Trial]:
    """Return nets and their scorings in a list."""
    return [trial for pair in pairs for trial in pair if trial]


def published_net(
    name: str,
    figure: float,
    trial: Trial,
    *,
    minutes: float,
    note: str = '',
    seeds: int = 5,
    pooled: Sequence[Values] = (),
    crops: Trial | None = None,
) -> Experiment:
    """Return an experiment whose claim is a published test error.

    It is reached by an error that rounds to the published figure or to a lower one.

    Args:
      name: The net's name.
      figure: The published error in percent.
      trial: Its recipe.
      minutes, seeds: As in `Experiment`.
      note: What is added to the published figure.
      pooled: As in `Comparison`.
      crops: A scoring of ten crops, whose error counts; None: that of the last evaluation counts.
    """
    final = final_errors(trial)

    def errors(records: Records) -> dict[int, float]:
        if not crops:
            return final(records)
        diverged = {seed: error for seed, error in final(records).items() if math.isnan(error)}
        return measured(crops, 'errors', 0)(records) | diverged

    limit = figure + (0.5 if figure == round(figure) else 0.05)

    def below(records: Records) -> dict[int, float]:
        return {seed: limit - error for seed, error in errors(records).items()}

    rule = Rule(matters=0.0, seeds=2 if pooled else 5)
    comparison = Comparison(f'{limit:g}% - error', below, rule, 0.3, pooled=pooled, nets=[errors])

    def text(records: Records) -> str:
        found = comparison.estimate(records)
        if found is None:
            return ''
        return estimated(found._replace(mean=limit - found.mean), '%', bool(pooled)).lstrip('+')

    def table(records: Records) -> str:
        by_seed = errors(records)
        rows = [
            [
                f'seed {r.seed}',
                reached([r]),
                number(by_seed[r.seed], '.2f') if r.seed in by_seed else 'not finished',
                f'{figure:g}',
            ]
            for r in records.of(trial)
        ]
        found = list(by_seed.values())
        rows.append(['mean of the finished', '', spread(found, '.2f'), f'{figure:g}'])
        return markdown([name, 'epochs', 'test error, %', 'published, %'], rows)

    return Experiment(
        f'{name}: {figure:g}% test error',
        "the authors' CIFAR-10 page and code",
        f'{figure:g}%{note}',
        nets_and_crops([(trial, crops)]),
        [comparison],
        table,
        minutes,
        seeds=seeds,
        trials=trials_of([(trial, crops)]),
        measured=text,
    )


def learning_curves(arms: Sequence[Arm], records: Records) -> Figure | None:
    """Draw training and test error of every run; None before two of the nets have run."""
    if sum(1 for arm in arms if records.of(arm.trial)) < 2:
        return None
    lines = []
    for color, arm in zip(figures.PALETTE, arms, strict=False):
        for record in records.of(arm.trial):
            scores = [(epoch, error) for epoch, error, _ in record.eval]
            for kind, points, dashes in (
                ('training', smooth(record.train), '--'),
                ('test', scores, '-'),
            ):
                if points:
                    lines.append(figures.Line(f'{arm.label}, {kind}', points, color, dashes))
    return figures.errors(lines, 'error (training: mean over an epoch)')


def _mean(values: Sequence[float]) -> str:
    return f'{sum(values) / len(values):.1f}' if values else ''
