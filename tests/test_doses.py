"""The doses in which the suite is run: --fast is most of it and starts no process."""

import subprocess

import pytest


def test_fast_is_most_of_the_suite(doses):
    assert doses['fast'].total() >= 0.6 * (doses['fast'].total() + doses['slow'].total())


def test_every_folder_has_fast_tests(doses):
    assert set(doses['fast']) >= set(doses['slow'])


def test_a_fast_test_that_starts_a_process_fails():
    with pytest.raises(pytest.fail.Exception, match='starts a process: mark it slow'):
        subprocess.run(['true'])
