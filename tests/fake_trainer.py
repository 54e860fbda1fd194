"""Stands in for alexnet_jax.main where a test is about the sweep: ten steps, a score by the rate.

Keeps 'checkpoint', of one number, and adds a line to starts.jsonl at each start. $FAKE_ENDS has how
starts of trials end, {'003': [137, 0]}: 0 runs to the end, 'nan' with no score, 137 dies
at step 5, others before the first step; 'full' finds the disk full; 'killed' prints nothing;
'saves' is preempted after one step, which it saves and does not record; 'error: ...' is printed, as
of bad input. $FAKE_DATA has the data that trials find at their first start,
{'003': {'train cat': '5 images'}}.
"""

import json
import math
import os
import re
import signal
import sys
import time
from pathlib import Path

STEPS = 10


def main() -> None:
    values = dict(re.fullmatch(r'--(.*?)=(.*)', arg, re.DOTALL).groups() for arg in sys.argv[1:])
    folder = Path(values['workdir'])
    folder.mkdir(parents=True, exist_ok=True)
    saved, starts = folder / 'checkpoint', folder / 'starts.jsonl'
    start = int(saved.read_text()) if saved.exists() else 0
    ends = json.loads(os.environ.get('FAKE_ENDS', '{}')).get(folder.name, [0])
    number = len(starts.read_text().splitlines()) if starts.exists() else 0
    end = ends[min(number, len(ends) - 1)]
    affinity = sorted(os.sched_getaffinity(0))
    with starts.open('a') as file:
        line = {'start': start, 'environ': dict(os.environ), 'cores': affinity, 'values': values}
        file.write(json.dumps(line) + '\n')
    found = json.loads(os.environ.get('FAKE_DATA', '{}')).get(folder.name)
    if found and not (folder / 'data.json').exists():
        write(folder / 'classes.json', json.dumps(sorted({part.split()[1] for part in found})))
        write(folder / 'data.json', json.dumps(found))
    seconds = float(os.environ.get('FAKE_SECONDS', 0.05))
    if end == 'slowly full':  # it saves first, as at a SIGTERM
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(10 * seconds)
    if end in ('full', 'slowly full'):
        sys.exit('error: cannot write metrics.jsonl: No space left on device; free disk space')
    if end == 'killed':
        os.kill(os.getpid(), signal.SIGKILL)
    if end == 'saves':
        (folder / 'checkpoints' / str(start + 1)).mkdir(parents=True)
        write(saved, str(start + 1))
        sys.exit(143)
    if str(end).startswith('error: '):
        print(end)
        sys.exit(2)
    if end not in (0, 137, 'nan'):
        time.sleep(seconds)
        print(f'error: this one ends with {end}')
        sys.exit(end)

    stopped = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    rate = float(values.get('config.optimizer.learning_rate', 0.004))
    metrics = folder / 'metrics.jsonl'
    if metrics.exists():
        lines = metrics.read_text().splitlines(keepends=True)
        done = [line for line in lines if line[-1] == '\n' and json.loads(line)['step'] <= start]
        write(metrics, ''.join(done))
    rate = math.nan if end == 'nan' else rate
    with metrics.open('a') as file:
        for step in range(start + 1, STEPS + 1):
            time.sleep(seconds)
            (folder / 'checkpoints' / str(step)).mkdir(parents=True, exist_ok=True)
            record = {'step': step, 'epoch': step * 6.0, 'images_per_second': 64.0}
            record |= {'top1': rate, 'top5': 0.9, 'loss': 1 - rate, 'bad_images': 0}
            splits = ('train', 'eval') if step in (2, 4, STEPS) else ('train',)
            for split in splits:
                file.write(json.dumps(record | {'split': split}) + '\n')
            file.flush()
            write(saved, str(step))
            if end == 137 and step == 5:
                os.kill(os.getpid(), signal.SIGKILL)
            if stopped:
                sys.exit(143)


def write(path: Path, text: str) -> None:
    """All or nothing, whenever this is killed."""
    temporary = path.with_suffix('.tmp')
    temporary.write_text(text)
    temporary.replace(path)


if __name__ == '__main__':
    main()
