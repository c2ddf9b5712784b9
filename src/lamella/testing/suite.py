"""The tests that every storage driver passes, ours and others'.

A driver's own test file is a subclass and its name::

    class TestMine(DriverSuite):
        driver = Mine
"""

from __future__ import annotations

from lamella.testing.applied import Applied
from lamella.testing.law import Law
from lamella.testing.snapshots import Snapshots

__all__ = ["DriverSuite"]


class DriverSuite(Snapshots, Applied, Law):
    """All of them. What a subclass may say of its driver, beside ``driver``:

    - ``options``: those that it is made with.
    - ``breaks_hard_links``: a file of a parent that is changed under one of its names keeps the others as they were, as
      the kernel's overlay does it. Then that is what is asserted, name by name, and never left out.
    - ``by_calls``: True where snapshots are tried by the calls of ``driver.union()``, without a mount.
    - ``keeps_sockets``: False where no socket is tried, which a layer cannot hold.
    - ``child_nbytes``: how much a snapshot takes in which nothing was changed; None for a driver that copies.
    - ``privileged``, ``reference``, ``max_examples``, and the fixture ``trial``, which decides where tests run.
    """
