"""Build the kernels. Everything static is in pyproject.toml; nothing is detected here."""

import os

from Cython.Build import cythonize
from setuptools import Extension, setup

KERNELS = [
    "index", "tarscan", "tarform", "changes", "walk", "confine", "place", "content", "claim", "lookup", "splice",
    "clone", "dirents", "extents", "thinmeta", "thinxml", "thinbuild", "thindelta", "thincount", "blocks", "ext4", "ext4dirs",
    "thintree", "thinspace", "thinpool",
]  # fmt: skip
TRACE = os.environ.get("LAMELLA_TRACE") == "1"  # coverage build: gcc counts the lines that run
DEBUG = os.environ.get("LAMELLA_DEBUG") == "1"  # Cython's own checks on, readable stacks
ASAN = os.environ.get("LAMELLA_ASAN") == "1"  # address and undefined-behaviour sanitizers
BUILD = os.environ.get("LAMELLA_KERNELS") != "0"  # 0: an editable install whose kernels are built in place afterwards

sanitize = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"] if ASAN else []
# An environment's CFLAGS replaces the interpreter's flags, so the level is stated here, last.
level = ["-O1", "-g", "-fno-omit-frame-pointer"] if DEBUG or ASAN else ["-O3", "-g0"]
# Not Cython's linetrace: it converts what a C function returns to a Python object, and a pointer is no C string.
count = ["--coverage", "-fprofile-update=atomic", "-O0"] if TRACE else []
warnings = ["-Wall", "-Wextra"]

extensions = [
    Extension(
        f"lamella._kernels.{name}",
        [f"src/lamella/_kernels/{name}.pyx"],
        extra_compile_args=[*warnings, *level, *sanitize, *count],
        extra_link_args=[*sanitize, *count],
    )
    for name in KERNELS
]
directives = {
    "language_level": 3,
    "wraparound": False,  # boundscheck stays on: a negative index raises
    "cdivision": True,  # unsigned arithmetic only
    "embedsignature": True,
    "embedsignature.format": "python",
    "overflowcheck": DEBUG,  # not for sanitizers: they look at the arithmetic that is shipped
    "initializedcheck": DEBUG or ASAN,
    "nonecheck": DEBUG or ASAN,
}
setup(
    ext_modules=cythonize(
        extensions if BUILD else [],
        include_path=["src"],
        build_dir="build/cython",
        compiler_directives=directives,
    ),
    options={"build_ext": {"parallel": os.cpu_count()}},
)
