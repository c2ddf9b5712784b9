"""Rows of one tree -> the same inodes below another directory: a copy. A system kernel.

The rows are a walked tree's (dev and ino are kept, path order) and the target is empty, so whatever stands in the way is
an error, and so is a file that is not what its row says any more: gone, another inode, of another size or time. Four
steps, each of them one call for all rows but the second, which any number of threads share:

1. clone_dirs: directories, parents first, which their owner may write to whatever their mode will be;
2. clone_files: regular files with content and metadata, symlinks, devices, FIFOs. Threads take runs of rows from the
   shared ``turns``, from either end so that they seldom meet in a directory, where they would wait for each other;
3. clone_links: further names of inodes (of any kind but directories) that have one by now;
4. clone_finish: metadata of directories, children first, when nothing below them will change any more.

Content is shared where the file system can (FICLONE), else copied by copy_file_range, else through ``buf``. Holes stay
holes. Seven calls a small file: open, fstat, open, FICLONE or copy_file_range, times, twice close; one more for each of
an owner other than the caller's, set-id and sticky bits, and an attribute.

Confinement is that of _below.pxd on both sides. The threads have a umask of 0 and a working directory of their own.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from lamella._kernels._below cimport Below
from lamella._kernels._rows cimport Rows

cdef enum:
    RUN_ROWS = 32            # taken at a time

cdef struct Clone:
    int source               # descriptors of the two directories
    int target
    const Rows* rows
    Py_ssize_t n             # rows of the table
    uint8_t* buf
    Py_ssize_t buf_cap
    uint32_t euid            # what a new inode has without being asked
    uint32_t egid
    Below source_dir
    Below target_dir
    Below link_dir           # a second one in the target
    bint share               # FICLONE may be tried ...
    bint refused             # ... but not for files of
    uint64_t refused_dev     # ... this device
    bint ranges              # copy_file_range may be tried
    Py_ssize_t row           # where it stopped, with an error
    int64_t n_files          # regular files made
    int64_t n_shared         # ... whose content is shared
    int64_t nbytes           # of content copied; holes and shared content are none

# Each returns 0, or -errno with c.row.
cdef int clone_dirs(Clone* c) noexcept nogil
# ``turns``: runs that nobody took, begin in the upper half, end in the lower; an error takes all that are left.
cdef int clone_files(Clone* c, uint64_t* turns) noexcept nogil
cdef int clone_links(Clone* c) noexcept nogil
cdef int clone_finish(Clone* c) noexcept nogil
