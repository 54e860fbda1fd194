"""The lease of a folder in a bucket: who gets it, who waits, who ends."""

import json
import os
import subprocess

import pytest
from buckets import Clock
from helpers import assert_has

from alexnet_jax.errors import BadInput
from alexnet_jax.run import lease
from alexnet_jax.run.lease import Lease, LeaseLost

ELSEWHERE = {'host': 'elsewhere', 'machine': 'another boot', 'pid': 7, 'began': 1.0}


@pytest.fixture
def clock():
    return Clock()


def take(store, clock=None) -> Lease:
    clock = clock or Clock()
    taken = Lease(store, clock, clock.sleep)
    taken.acquire()
    return taken


def numbers(store) -> list[str]:
    return sorted(store.list('lease'))


def leave(store, number: int, **values) -> None:
    """Write the lease of a holder."""
    content = {**ELSEWHERE, 'token': 'theirs', 'beats': 0, 'released': False} | values
    store.write(f'lease/{number}', json.dumps(content).encode())


def test_a_free_folder_is_taken_at_once(store, clock):
    first = take(store, clock)
    assert numbers(store) == ['lease/1']
    assert first.before is None
    assert clock.now == 0


def test_what_is_given_back_is_taken_at_once_under_the_next_number(store, clock):
    first = take(store)
    first.release()
    second = take(store, clock)
    assert numbers(store) == ['lease/2']
    assert second.before == first.token
    assert clock.now == 0


def test_a_living_holder_is_not_disturbed(store, clock):
    leave(store, 3)
    clock.events.append((9, lambda: leave(store, 3, beats=1)))
    before = store.read('lease/3')
    with pytest.raises(BadInput) as found:
        take(store, clock)
    assert_has(str(found.value), store.url, 'process 7 on elsewhere', 'different --workdir')
    assert 9 <= clock.now <= 9 + lease.POLL
    assert numbers(store) == ['lease/3']
    assert store.read('lease/3') != before


def test_one_that_stands_still_is_taken_over_after_a_minute(store, clock, capsys):
    leave(store, 3)
    taken = take(store, clock)
    assert clock.now == pytest.approx(lease.STALE, abs=lease.POLL)
    assert numbers(store) == ['lease/4']
    assert taken.before == 'theirs'
    assert_has(capsys.readouterr().err, store.url, 'process 7 on elsewhere', '60 s')


def test_a_holder_may_miss_two_beats():
    assert lease.BEAT == 10
    assert 3 * lease.BEAT < lease.STALE


def test_one_that_is_given_back_meanwhile_is_taken_then(store, clock):
    leave(store, 3)
    clock.events.append((9, lambda: leave(store, 3, released=True)))
    take(store, clock)
    assert clock.now < 20
    assert numbers(store) == ['lease/4']


@pytest.mark.slow
def test_a_dead_process_of_this_machine_is_succeeded_at_once(store, clock):
    with subprocess.Popen(['sleep', '100']) as process:
        alive = lease.identity() | {'pid': process.pid, 'began': lease._began(process.pid)}
        assert not lease.is_dead(alive)
        process.kill()
    assert lease.is_dead(alive)
    leave(store, 1, **alive)
    take(store, clock)
    assert clock.now == 0


def test_process_numbers_of_other_machines_mean_nothing():
    own = lease.identity()
    assert own['pid'] == os.getpid()
    assert not lease.is_dead(own)
    assert lease.is_dead(own | {'began': own['began'] + 1})  # the number was used again
    assert not lease.is_dead(own | {'began': own['began'] + 1, 'machine': 'another boot'})
    for broken in ({}, {'machine': own['machine']}, own | {'pid': 'x'}, own | {'machine': 5}):
        assert not lease.is_dead(broken)
    assert lease.is_dead(own | {'pid': -1})


def test_of_two_that_want_it_one_gets_it(store, clock):
    """Another one is quicker between the look and the create."""
    leave(store, 3)
    clock.events.append((lease.STALE, lambda: leave(store, 4)))
    clock.events.append((lease.STALE + 5, lambda: leave(store, 4, beats=1)))
    with pytest.raises(BadInput):
        take(store, clock)
    assert numbers(store) == ['lease/3', 'lease/4']


def test_a_create_whose_answer_was_lost_is_recognized(store, clock, monkeypatch):
    create = store.create
    monkeypatch.setattr(store, 'create', lambda *args: create(*args) and False)
    taken = take(store, clock)
    assert numbers(store) == ['lease/1']
    taken.check()


def test_an_old_list_does_not_make_a_second_holder(store, clock, monkeypatch):
    """Two successors have come and gone since the list was read, and a third holds the lease."""
    leave(store, 1, released=True)
    create = store.create

    def late(name, content):
        if name == 'lease/2':
            store.delete('lease/1')
            leave(store, 3)
            clock.events.append((clock.now + 5, lambda: leave(store, 3, beats=1)))
        return create(name, content)

    monkeypatch.setattr(store, 'create', late)
    with pytest.raises(BadInput):
        take(store, clock)
    assert numbers(store) == ['lease/3']


class TestHolder:
    def test_keeps_it_by_beats(self, store):
        taken = take(store)
        before = store.read('lease/1')
        taken.beat()
        assert store.read('lease/1') != before
        taken.check()

    def test_loses_it_to_a_higher_number(self, store):
        taken = take(store)
        leave(store, 2)
        for call in (taken.check, taken.beat, taken.release):
            with pytest.raises(LeaseLost) as found:
                call()
            assert_has(str(found.value), store.url, 'process 7 on elsewhere', 'no sign of life')
        assert json.loads(store.read('lease/2'))['token'] == 'theirs'

    def test_loses_it_when_it_was_deleted_or_rewritten(self, store):
        taken = take(store)
        leave(store, 1)
        with pytest.raises(LeaseLost):
            taken.beat()
        store.delete('lease/1')
        with pytest.raises(LeaseLost, match=r'/lease, which .* was deleted'):
            taken.beat()
        assert numbers(store) == []

    def test_a_beat_that_failed_may_have_succeeded(self, store, monkeypatch):
        taken = take(store)
        write = store.write

        def lost(name, content):
            write(name, content)
            raise ConnectionError

        monkeypatch.setattr(store, 'write', lost)
        with pytest.raises(ConnectionError):
            taken.beat()
        monkeypatch.undo()
        taken.beat()
        taken.check()


@pytest.mark.parametrize('content', [b'', b'{', b'[1]', b'\xff', b'{"pid": []}'])
def test_a_damaged_lease_is_waited_for(store, clock, content):
    store.write('lease/1', content)
    take(store, clock)
    assert clock.now >= lease.STALE


def test_other_objects_in_the_folder_are_no_leases(store, clock):
    for name in ('lease/x', 'lease/1.5', 'lease/²', 'lease/sub/y'):
        store.write(name, b'')
    take(store, clock)
    assert 'lease/1' in numbers(store)


def test_who_holds_it(store):
    assert lease.holder_of(store) is None
    taken = take(store)
    assert lease.holder_of(store) == f'process {os.getpid()} on {lease.identity()["host"]}'
    taken.release()
    assert lease.holder_of(store) is None
