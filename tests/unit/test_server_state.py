"""Locks that die with their process, and the files by which commands and keeper talk."""

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from provisioning import server_state
from provisioning.locks import FileLock, is_held
from provisioning.server_state import State

HOLD = "import sys,time; from pathlib import Path; from provisioning.locks import FileLock; "
HOLD += "FileLock.acquire(lock := FileLock(Path(sys.argv[1]))); print('held', flush=True); time.sleep(60)"


def test_exclusive_lock_excludes_and_shared_locks_do_not(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first, second, alone = FileLock(path, shared=True), FileLock(path, shared=True), FileLock(path)
    assert first.acquire(0)
    assert second.acquire(0)
    assert not alone.acquire(0)
    assert not is_held(path)
    first.release()
    second.release()
    assert alone.acquire(0)
    assert is_held(path)
    alone.release()
    assert not is_held(path)


def test_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        holder.stdout.readline()
        assert is_held(path)
        holder.send_signal(signal.SIGKILL)
    assert not is_held(path)


def test_forked_child_does_not_keep_its_parents_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = FileLock(path)
    lock.acquire()
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.write(ready[1], b"x")
        os.read(go[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    lock.release()
    assert not is_held(path)
    os.write(go[1], b"x")
    assert os.waitpid(child, 0)[1] == 0
    for end in (*ready, *go):
        os.close(end)


def test_state_survives_the_file_and_rubbish_does_not(tmp_path: Path) -> None:
    where = server_state.files(tmp_path)
    where.root.mkdir()
    assert server_state.read(where) is None
    state = State("token", "running", "3", 12, port=18080, java_pid=13, java_started=1.5)
    server_state.write(where, state)
    assert server_state.read(where) == state
    assert state.url == "http://127.0.0.1:18080/api"
    where.state.write_text('{"half": ')
    assert server_state.read(where) is None


def test_request_is_for_one_keeper_only(tmp_path: Path) -> None:
    assert not server_state.asks(tmp_path / "stop", "mine")
    server_state.write_text(tmp_path / "stop", "another's")
    assert not server_state.asks(tmp_path / "stop", "mine")
    server_state.write_text(tmp_path / "stop", "mine")
    assert server_state.asks(tmp_path / "stop", "mine")


@pytest.mark.parametrize("shift", [0, 3600])
def test_java_is_known_by_pid_and_start_time(shift: int) -> None:
    import psutil  # type: ignore[import-untyped]

    started = psutil.Process().create_time() - shift
    found = server_state.java_process(State("t", "running", "3", 1, java_pid=os.getpid(), java_started=started))
    assert (found is not None) == (shift == 0)


def test_messages_taken_out_by_a_dead_server_are_due_at_once(tmp_path: Path) -> None:
    where = server_state.files(tmp_path)
    where.root.mkdir()
    server_state.return_messages(where)  # no database yet
    with closing(sqlite3.connect(where.database)) as database, database:
        database.execute("CREATE TABLE other (a)")
    server_state.return_messages(where)  # no table yet
    with closing(sqlite3.connect(where.database)) as database, database:
        database.execute("CREATE TABLE queue_message (message_id, popped, deliver_on)")
        database.executemany("INSERT INTO queue_message VALUES (?, ?, '2999-01-01')", [("held", 1), ("waits", 0)])
    server_state.return_messages(where)
    with closing(sqlite3.connect(where.database)) as database:
        due = "SELECT message_id FROM queue_message WHERE popped = 0 AND deliver_on <= datetime('now', '+1 seconds')"
        assert database.execute(due).fetchall() == [("held",)]
        later = "SELECT message_id FROM queue_message WHERE deliver_on = '2999-01-01'"
        assert database.execute(later).fetchall() == [("waits",)]
