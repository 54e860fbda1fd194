"""Stands in for `alexnet_jax.main`: epochs of a tenth of a second and a made-up learning curve.

As the trainer does, it continues from where its workdir stopped, saves on SIGTERM and exits 143;
it exits 3 in the epoch that `config.diverges` names. At epoch e the training error is 0.8 / e.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

flags = dict(arg.removeprefix('--').split('=', 1) for arg in sys.argv[1:])
workdir = Path(flags['workdir'])
workdir.mkdir(parents=True, exist_ok=True)
if flags['config'] == 'configs/refused.py':
    sys.exit(2)

metrics = workdir / 'metrics.jsonl'
done = metrics.read_text().count('"train"') if metrics.exists() else 0
(workdir / 'pid').write_text(str(os.getpid()))
with (workdir / 'starts').open('a') as file:
    file.write(f'{done}\n')


def stop(number, _):
    sys.exit(128 + number)


signal.signal(signal.SIGTERM, stop)
epochs = int(float(flags['config.epochs']))
with metrics.open('a') as file:
    for epoch in range(done + 1, epochs + 1):
        if epoch == int(flags.get('config.diverges', 0)):
            sys.exit(3)
        time.sleep(float(flags.get('config.pause', 0.0)))
        for split in ['train', 'eval'] if epoch == epochs else ['train']:
            record = {'step': epoch, 'epoch': float(epoch), 'split': split, 'loss': 1.0,
                      'top1': 1 - 0.8 / epoch, 'top5': 1.0, 'examples': 100, 'bad_images': 0,
                      'images_per_second': 50.0}  # fmt: skip
            file.write(json.dumps(record) + '\n')
            file.flush()
