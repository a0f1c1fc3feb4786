"""Frames that are read while the network works on the one before."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from util import UserError
from util.demo.sources import Source


class ReadFrame(NamedTuple):
    """Frame number `i` of a source: its `depth` (H, W), or the `error` why it could not be read.

    `moment`: when it had been read, in seconds of time.perf_counter.
    """

    i: int
    depth: np.ndarray | None
    moment: float
    error: Exception | None = None


@contextmanager
def read_ahead(source: Source, length: int | None) -> Iterator[Iterator[ReadFrame]]:
    """Every frame of a source in turn, at most `length`; of a live one the newest, each at most once."""
    with ThreadPoolExecutor(1) as reader:
        newest = _Newest(source) if source.live else None
        try:
            yield _newest_frames(newest, length) if newest else _frames(source, length, reader)
        finally:
            if newest:
                newest.stop()
            reader.shutdown(cancel_futures=True)


def _frames(source: Source, length: int | None, reader: ThreadPoolExecutor) -> Iterator[ReadFrame]:
    if length == 0:
        return
    ahead: Future[ReadFrame] = reader.submit(_read, source, 0)
    i = 0
    while True:
        frame, i = ahead.result(), i + 1
        last = length is not None and i >= length
        if not last:
            ahead = reader.submit(_read, source, i)
        yield frame
        if last:
            return


def _read(source: Source, i: int) -> ReadFrame:
    try:
        return ReadFrame(i, source.read(i), time.perf_counter())
    except (UserError, OSError) as error:
        return ReadFrame(i, None, time.perf_counter(), error)


class _Newest:
    """Reads a live source all the time, and keeps the last frame alone."""

    def __init__(self, source: Source):
        self.source, self.ended = source, False
        self._frame: ReadFrame | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        i = 0
        while not self.ended:
            try:
                frame = _read(self.source, i)
            except Exception as error:  # a bug, to be raised where somebody sees it
                frame = ReadFrame(i, None, time.perf_counter(), error)
            with self._changed:
                self._frame = frame
                self._changed.notify()
            if frame.error is not None:
                return
            i += 1

    def take(self) -> ReadFrame:
        """The newest frame that was not taken yet; waits for it."""
        with self._changed:
            self._changed.wait_for(lambda: self._frame is not None)
            frame, self._frame = self._frame, None
        return frame

    def stop(self) -> None:
        """Read no more."""
        self.ended = True
        self._thread.join(timeout=10)


def _newest_frames(newest: _Newest, length: int | None) -> Iterator[ReadFrame]:
    taken = 0
    while length is None or taken < length:
        frame = newest.take()
        taken += 1
        yield frame
        if frame.error is not None:
            return
