"""Partial methods of cached functions, with the controls of these."""

from __future__ import annotations

from functools import partial, partialmethod
from typing import Any

CALLS = ("cache_key", "invalidate", "peek", "refresh")
"""The controls that take the arguments of a call."""
OTHERS = ("cache", "cache_clear", "cache_info", "cache_parameters")


class CachedPartialMethod(partialmethod[Any]):
    """A partial method whose controls (`invalidate` and the like) know the arguments that it adds."""

    func: Any

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        found: Any = super().__get__(instance, owner)
        if isinstance(found, partial):
            bound = BoundPartial(found.func, *found.args, **found.keywords)
            if instance is not None:
                bound.__self__ = instance
            return bound
        for name in CALLS:                      # a function that takes the instance, a new one at each look-up
            if hasattr(self.func, name):
                setattr(found, name, partial(self._control, name))
        if hasattr(self.func, "set"):
            found.set = self._set
        for name in OTHERS:
            if hasattr(self.func, name):
                setattr(found, name, getattr(self.func, name))
        return found

    def _control(self, name: str, instance: Any, /, *args: Any, **kwargs: Any) -> Any:
        control = partial(getattr(self.func, name), instance)
        return partial(control, *self.args, **self.keywords)(*args, **kwargs)

    def _set(self, value: Any, instance: Any, /, *args: Any, **kwargs: Any) -> Any:
        control = partial(self.func.set, value, instance)
        return partial(control, *self.args, **self.keywords)(*args, **kwargs)


class BoundPartial(partial):  # type: ignore[type-arg]
    """A cached method of an instance, with some of its arguments."""

    func: Any
    __self__: Any                               # of a method alone

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):               # with `__wrapped__` its signature would be that of the whole function
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        found = getattr(self.func, name)
        return partial(found, *self.args, **self.keywords) if name in CALLS else found

    def set(self, value: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Store `value` as the result of the call with these arguments, as if it had been computed."""
        control = partial(self.func.set, value)
        return partial(control, *self.args, **self.keywords)(*args, **kwargs)
