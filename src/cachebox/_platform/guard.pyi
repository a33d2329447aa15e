from _thread import LockType
from collections.abc import Callable

def keep_running(run: Callable[[], object], begun: LockType | None = ...) -> None: ...
