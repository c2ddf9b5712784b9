"""One enum of verdicts for every kernel.

A core returns OK or one of the positive verdicts in its normal course; a negative one is an error that the def
wrapper turns into an exception of lamella.errors, with the offset or row at which it happened.
"""

cdef enum Status:
    OK = 0
    NEED_INPUT = 1        # all input used; call again with the bytes that follow
    OUTPUT_FULL = 2       # a column, the arena or the out buffer is full; grow it and call again
    AT_END = 3            # the stream's own end marker was met
    SPECIAL = 4           # a row that policy must decide; the state names it
    BAD_FORMAT = -1
    TRUNCATED = -2
    OVER_LIMIT = -3
    OS_ERROR = -4         # errno stands in the state
