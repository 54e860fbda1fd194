"""What is read from a workdir."""

import json

from alexnet_jax.experiments.outcome import read_outcome
from alexnet_jax.experiments.records import Trial


def test_a_line_that_was_added_by_hand_is_no_record(tmp_path):
    """Of a trial that was stopped after a step of 100 examples, at 50 a second."""
    record = {
        'step': 1, 'epoch': 0.5, 'split': 'train', 'loss': 1.0, 'top1': 0.25, 'examples': 100,
        'bad_images': 0, 'images_per_second': 50.0,
    }  # fmt: skip
    lines = [record, {'step': 1, 'note': 'here the fan failed'}]
    (tmp_path / 'metrics.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
    found = read_outcome(Trial('x', 'a', 'configs/a.py', {}, 2.0), 0, tmp_path, 143, None, 9.0)
    assert found
    assert (found.state, found.epoch, found.seconds) == ('stopped', 0.5, 2.0)
    assert (found.train, found.eval) == ([(0.5, 0.75, 1.0)], [])
