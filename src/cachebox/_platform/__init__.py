"""What the compiler, the interpreter and the system give: locks, clocks, threads, forks, callers."""

from cachebox._installation import check

check()             # here, because nearly everything imports this package
del check
