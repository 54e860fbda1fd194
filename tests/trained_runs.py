"""Runs as training leaves them, for tests of what reads a workdir."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from alexnet_jax.run.checkpoint import Checkpoints


def save_run(
    folder: Path, config: ConfigDict, classes: Sequence[str], nets: Mapping[int, tuple[Any, float]]
) -> None:
    """Write config, classes and, for each step, a checkpoint of (variables, eval top-1)."""
    folder.mkdir(parents=True)
    (folder / 'config.json').write_text(config.to_json())
    (folder / 'classes.json').write_text(json.dumps(list(classes)))
    with Checkpoints(str(folder)) as checkpoints:
        for step, (variables, _) in nets.items():
            checkpoints.save(step, variables)
    records = [
        {'step': step, 'split': 'eval', 'top1': top1, 'top5': 1.0}
        for step, (_, top1) in nets.items()
    ]
    (folder / 'metrics.jsonl').write_text(''.join(json.dumps(r) + '\n' for r in records))
