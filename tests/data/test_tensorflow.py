"""TensorFlow is set up before anything in `data` uses it."""

import subprocess
import sys

import pytest
from helpers import ROOT

# Stands in for TensorFlow: on a machine without a GPU nothing shows whether GPUs are hidden.
FAKE = """
import os

print(os.environ['TF_CPP_MIN_LOG_LEVEL'], os.environ['TF_ENABLE_ONEDNN_OPTS'])

class config:
    set_visible_devices = print
"""


@pytest.mark.slow
def test_the_log_is_quiet_and_gpus_are_hidden(tmp_path):
    (tmp_path / 'tensorflow.py').write_text(FAKE)
    done = subprocess.run(
        [sys.executable, '-c', 'import alexnet_jax.data.tensorflow'],
        cwd=ROOT,
        env={'PYTHONPATH': str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ['3 0', '[] GPU']
