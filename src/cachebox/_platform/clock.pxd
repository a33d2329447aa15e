"""The clocks, in monotonic seconds. The coarse one takes a tenth of the time of the precise one."""


cdef extern from "_platform/clock.h" nogil:
    double coarse_now "cb_now"()
    double precise_now "cb_precise_now"()
    const bint HAS_PRECISE_CLOCK "CB_HAS_PRECISE_CLOCK"
