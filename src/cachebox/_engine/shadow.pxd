"""The shadow: five small caches ("lanes"), one for each mode. They are shown a sample of the keys to find the best mode.

All five share one record for each key, so a key is looked up once. A record stands in one list of each lane that holds
it. A record that no lane holds is *gone*: it is remembered until its memory is needed. Records hold hashes, no keys.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t, uint8_t


ctypedef uint32_t Mode              # how a cache behaves; `auto.pxd` has a table of the modes

cdef enum:
    LRU_MODE
    LIRS_MODE
    S3_MODE
    SMALL_MODE                      # W-TinyLFU with a window of 1 %
    LARGE_MODE                      # W-TinyLFU with a window of 30 %
    MODES


ctypedef uint32_t List

cdef enum:
    WINDOW
    PROBATION
    PROTECTED
    LISTS
    NOWHERE = 3
    GONE = 4                        # a record that no lane holds; its links are those of lane 0


cdef enum:
    MANY_SIZES = 6                  # records, in multiples of a lane's size
    MOST_STEPS = 64                 # the most steps of one search for a victim


cdef struct Record:
    uint32_t hash
    uint32_t last                   # the time of its last use, in sampled requests
    uint32_t missed                 # the misses of the S3 lane until its last use
    uint16_t chain                  # the next record in its bucket
    uint8_t uses
    uint8_t hits                    # hits since the S3 lane took it in
    uint8_t held                    # how many lanes hold it
    uint8_t place[MODES]            # the List where each lane has it
    uint16_t prev[MODES]            # towards the next victim
    uint16_t next[MODES]


cdef struct Lane:
    uint16_t tail[LISTS]            # the next victims
    uint16_t head[LISTS]
    uint16_t count[LISTS]
    uint16_t window                 # the most entries that its window is to hold
    double hits                     # scored hits, each with the `unit` of its time as weight


cdef struct Shadow:
    Record* records                 # [0] is no record
    uint32_t allocated              # records that have memory, [0] included
    uint32_t limit                  # records in use, [0] included
    uint32_t fresh                  # the lowest record never used
    uint16_t free                   # chain of records given back
    uint16_t oldest_gone
    uint16_t newest_gone
    uint16_t* buckets               # records, by hash
    uint32_t bucket_mask
    uint32_t size                   # entries of each lane; 0: the shadow is off
    uint32_t bound                  # keys whose scrambled hash is at most this are in the sample
    uint32_t clock                  # sampled requests
    uint32_t misses                 # misses of the S3 lane
    uint32_t hand                   # the record to age next
    uint32_t debt                   # ageing still to be done, in tenths of a record
    uint32_t left                   # sampled requests until the burst ends, or misses until the pause does
    uint32_t pause                  # misses between two bursts; 0: there are no pauses
    bint idle                       # in a pause
    uint32_t unscored               # sampled requests until scoring resumes
    Mode mode                       # the mode of the cache
    uint32_t chance
    Lane lanes[MODES]
    double differ[MODES][MODES]     # scored requests that only one of two lanes hit; [i][j] for i < j
    double total                    # scored requests
    double unit                     # the weight of the next request; it grows, so that all earlier ones fade
    double growth
    double caution                  # 1, or more after changes of mode
    double calming


cdef bint make_records(Shadow* s, uint32_t records) noexcept nogil
cdef void drop_records(Shadow* s) noexcept nogil
cdef void start_shadow(Shadow* s, uint32_t size, Mode mode) noexcept nogil
cdef Mode show(Shadow* s, uint32_t h, bint missed) noexcept nogil      # `missed`: by the cache itself
cdef void show_removal(Shadow* s, uint32_t h) noexcept nogil
cdef int check_shadow(Shadow* s) except -1
cdef uint32_t sample_shift(uint32_t size, uint32_t records) noexcept nogil
cdef uint32_t window_of(Mode mode, uint32_t size) noexcept nogil


cdef inline bint is_sampled(const Shadow* s, uint32_t scrambled_hash) noexcept nogil:
    return scrambled_hash <= s.bound
