"""The second tier without a server: a folder that the processes of one machine share, over SQLite.

A folder holds the entries of one namespace. The modules, from the bottom up::

    page         memory-mapped counters: what changed, what was used    noted      values with their counters
    writer_lock  one writer at a time, of all processes         processes  which processes live
    folder       where the folder is, who may see it            database   SQLite as it is used here
    store        reading and writing by the protocol            room       which entries leave when it is full
    operations   each script of the servers, over SQLite        directory  all of it in the place of servers

Invariants:

- Every change of entries is one transaction under the writer lock. It happens between two changes of its key's
  counter: the counter is odd before the transaction begins, and even once the outcome is decided. A first tier serves a
  value only while the counter is even and equal to its value before the read.
- The next writer after a death has SQLite decide what became of the transaction before any counter becomes even.
- Damaged data is never believed: the store starts again, empty, in a file of another name.
"""
