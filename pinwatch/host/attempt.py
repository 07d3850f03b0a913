"""A call in a thread of its own, where the lock that it needs may be held for long, or for ever."""

from __future__ import annotations

import errno
import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Answer = TypeVar("Answer")


class Attempt(Generic[Answer]):
    """Begins at once; OSError when no thread is to be had. One that waits for a lock in the kernel
    cannot be ended: who gives up leaves it behind, and it ends when it may."""

    def __init__(self, call: Callable[[], Answer]) -> None:
        self._answers: queue.SimpleQueue[Answer | BaseException] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, args=(call,), daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            raise OSError(errno.EAGAIN, str(error)) from None

    def _work(self, call: Callable[[], Answer]) -> None:
        try:
            self._answers.put(call())
        except BaseException as error:
            self._answers.put(error)

    def wait(self, seconds: float) -> Answer:
        """Its answer, or what it raised; TimeoutError when it takes longer."""
        try:
            answer = self._answers.get(timeout=seconds)
        except queue.Empty:
            raise TimeoutError from None
        if isinstance(answer, BaseException):
            raise answer
        return answer

    @property
    def is_over(self) -> bool:
        return not self._thread.is_alive()
