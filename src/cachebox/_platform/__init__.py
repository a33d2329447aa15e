"""What the compiler, the interpreter and the system provide: locks, clocks, threads, forks, callers."""

from cachebox._installation import check

check()             # here, because nearly every module imports this package
del check
