from cachebox._engine.table cimport Engine


cdef class LRU(Engine):
    pass
