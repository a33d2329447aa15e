"""What the compiler, the interpreter and the system give: locks, clocks, threads, forks, callers."""
