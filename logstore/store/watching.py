"""Waiting for what other processes append: by inotify where the kernel has it, else by looking often.

A watcher may wake without a reason, never sleep through one: what is written after it was made, or after its last
wait returned, wakes it. Belongs to one thread at a time, but for `wake` and `close`.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import select
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

_MODIFY, _MOVED_TO, _CREATE, _DELETE_SELF, _MOVE_SELF = 0x2, 0x80, 0x100, 0x400, 0x800
_EVENTS = _MODIFY | _MOVED_TO | _CREATE | _DELETE_SELF | _MOVE_SELF
_NAP_S = 0.002
_EVENT_BYTES = 1 << 16
_CLOSED = "this watcher is closed"


class Watcher:
    """Waits until something is written in one of some directories; a context manager.

    Args:
        directories: of partitions; more can be added.
    """

    def __init__(self, directories: Iterable[Path] = ()) -> None:
        library = _inotify()
        self._library = library
        self._descriptor = -1 if library is None else library.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self._waking, self._woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._waking, select.POLLIN)
        if self._descriptor >= 0:
            self._poll.register(self._descriptor, select.POLLIN)
        self._is_open = True
        self._is_waiting = False
        # Guards that nobody uses a descriptor that was given back: its number may be another file's then.
        self._guard = threading.Lock()
        try:
            for one in directories:
                self.add(one)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Watcher {'by inotify' if self._descriptor >= 0 else 'by looking often'}>"

    def add(self, directory: Path) -> None:
        """Watch one more. Where the kernel takes no more watches, all are looked at often from now on.

        Raises FileNotFoundError, ValueError once it is closed.
        """
        if not self._is_open:
            raise ValueError(_CLOSED)
        if self._descriptor < 0 or self._library is None:
            return
        if self._library.inotify_add_watch(self._descriptor, os.fsencode(directory), _EVENTS) < 0:
            import ctypes

            number = ctypes.get_errno()
            if number == errno.ENOENT:
                raise FileNotFoundError(number, os.strerror(number), os.fspath(directory))
            self._poll.unregister(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def wait(self, timeout: float | None = None, is_there: Callable[[], bool] | None = None) -> bool:
        """Sleep until something is written, `wake` is called, or `timeout` seconds are over; whether it was the last.

        `is_there` says whether what is waited for is there; it is asked before each sleep, and where the kernel tells
        nothing, every 2 ms. Raises ValueError where it is closed; who waits then is woken.
        """
        with self._guard:
            if not self._is_open:
                raise ValueError(_CLOSED)
            self._is_waiting = True
        try:
            return self._wait(None if timeout is None else time.monotonic() + timeout, is_there)
        finally:
            with self._guard:
                self._is_waiting = False
                if not self._is_open:
                    self._give_back()

    def _wait(self, end: float | None, is_there: Callable[[], bool] | None) -> bool:
        while is_there is None or not is_there():
            left = None if end is None else max(end - time.monotonic(), 0.0)
            nap = left
            if self._descriptor < 0 and (left is None or left > _NAP_S):
                nap = _NAP_S
            if self._poll.poll(None if nap is None else nap * 1000):
                self._drain()
                if is_there is None or not self._is_open:
                    return True
            elif left is not None and left <= (nap or 0.0):
                return is_there is not None and is_there()
            elif is_there is None:
                return True  # nobody can say whether there is something: the caller has to look
        return True

    def wake(self) -> None:
        """Let who waits look, from any thread; nothing where it is closed."""
        with self._guard, contextlib.suppress(BlockingIOError):
            if self._is_open:
                os.write(self._woken, b"\0")

    def _drain(self) -> None:
        for descriptor in (self._waking, self._descriptor):
            with contextlib.suppress(BlockingIOError):
                while descriptor >= 0 and os.read(descriptor, _EVENT_BYTES):
                    pass

    def close(self) -> None:
        """Give everything back, from any thread; who waits is woken first. Closing twice is fine."""
        with self._guard:
            if not self._is_open:
                return
            self._is_open = False
            if not self._is_waiting:
                self._give_back()
                return
            with contextlib.suppress(BlockingIOError):
                os.write(self._woken, b"\0")

    def _give_back(self) -> None:
        for descriptor in (self._descriptor, self._waking, self._woken):
            if descriptor >= 0:
                os.close(descriptor)


@functools.cache
def _inotify() -> Any:
    """The C library, where it has inotify."""
    import ctypes  # it costs a start-up time that few need

    library = ctypes.CDLL(None, use_errno=True)
    return library if hasattr(library, "inotify_init1") else None
