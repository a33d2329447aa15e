"""The second tier without a server: a folder that the processes of one machine share, over SQLite.

A folder holds the entries of one namespace. The modules, from below::

    page         counters that all processes map: what has changed, what was used       noted  values that know theirs
    writer_lock  one writer at a time, of all processes     processes  which of them live
    folder       where it is, and who may see it            database   SQLite as it is used here
    store        reading and writing by a protocol          room       what leaves when there is no room
    operations   what a second tier can be asked for        directory  all of it in the place of servers

Invariants:

- Everything that changes an entry is one transaction, under the writer lock, between two changes of the counter of its
  key: odd before it begins, even when it is decided. A first tier serves what it holds only while the counter is what
  it was, and even, before the value was read.
- Whoever finds that a writer has died has SQLite decide what became of its transaction before a counter becomes even.
- What is damaged is never believed: the store begins anew, in a file of another name.
"""
