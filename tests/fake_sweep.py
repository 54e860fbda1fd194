"""`python -m alexnet_jax.sweep`, with fake trials on a machine of one device."""

from pathlib import Path

from alexnet_jax.errors import run_command
from alexnet_jax.run import mirror
from alexnet_jax.sweep import __main__ as sweep
from alexnet_jax.sweep import base, runner
from alexnet_jax.sweep.backends import local, slurm

if __name__ == '__main__':
    base.TRAINER = (str(Path(__file__).with_name('fake_trainer.py')),)
    runner.POLL = 0.05
    mirror.PERIOD = mirror.LOOK = 0.2
    slurm.QUEUE_EVERY = 0.5
    slurm.RESULT_DELAY = 3
    local.probe = lambda arguments: ('cpu', 1)
    run_command(sweep.main)
