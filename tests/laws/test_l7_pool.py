"""L7: a mapping behaves as ``dict[block, data block]`` under any script, snapshots keep what they had, counts are right.

The reference is one that the kernel's own pool agrees with (tests/vm); thin-provisioning-tools read what we wrote.
"""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from tests.block import pools
from tests.conftest import fresh

pytestmark = pytest.mark.requires("thin_check", "thin_delta", "thin_dump", "thin_ls")
NBLOCKS = 24
IDS = st.sampled_from([0, 1, 2, (1 << 24) - 1])
NBYTES = NBLOCKS * pools.BLOCK
OFFSETS = st.integers(0, NBYTES - 1) | st.integers(0, NBLOCKS - 1).map(lambda block: block * pools.BLOCK)
LENGTHS = st.integers(1, 100) | st.integers(1, 5).map(lambda n: n * pools.BLOCK) | st.integers(1, 4 * pools.BLOCK)


class Script(RuleBasedStateMachine):
    """A script of everything that can be done, to two pools."""

    folder = None  # where, for each example anew

    def __init__(self) -> None:
        super().__init__()
        self.undo = contextlib.ExitStack()
        folder = self.undo.enter_context(contextlib.contextmanager(fresh)(self.folder))
        self.both = pools.Both(folder, NBLOCKS)
        self.n_writes = 0

    def teardown(self) -> None:
        try:
            self.both.agree()
            self.both.reopen()
            self.both.agree()
        finally:
            self.both.pool.close()
            self.undo.close()

    @property
    def there(self) -> dict[int, object]:
        return self.both.reference.state.devices

    @initialize(held=st.booleans())
    def begin(self, held):
        """Begin where the interesting things are near: two devices that share blocks, and perhaps a metadata snapshot."""
        self.both.message("create_thin", 0)
        self.both.write(0, 0, b"first" * pools.BLOCK)
        self.both.message("create_snapshot", 1, 0)
        if held:
            self.both.message("reserve_metadata_snap")

    @rule(dev_id=IDS)
    def create(self, dev_id):
        self.both.message("create_thin", dev_id)

    @rule(dev_id=IDS, origin=IDS)
    def snapshot(self, dev_id, origin):
        self.both.message("create_snapshot", dev_id, origin)

    @rule(data=st.data())
    @precondition(lambda self: self.there)
    def snapshot_of_one(self, data):
        self.both.message("create_snapshot", data.draw(IDS), data.draw(st.sampled_from(sorted(self.there))))

    @rule(dev_id=IDS, close=st.booleans())
    def delete(self, dev_id, close):
        if close:
            self.both.close(dev_id)
        self.both.message("delete", dev_id)

    @rule(data=st.data(), offset=OFFSETS, nbytes=LENGTHS)
    @precondition(lambda self: self.there)
    def write(self, data, offset, nbytes):
        self.n_writes += 1
        content = (self.n_writes.to_bytes(4, "little") * (nbytes // 4 + 1))[: min(nbytes, NBYTES - offset)]
        self.both.write(data.draw(st.sampled_from(sorted(self.there))), offset, content)

    @rule(data=st.data(), offset=OFFSETS, nbytes=LENGTHS)
    @precondition(lambda self: self.there)
    def discard(self, data, offset, nbytes):
        self.both.discard(data.draw(st.sampled_from(sorted(self.there))), offset, min(nbytes, NBYTES - offset))

    @rule()
    def hold(self):
        self.both.message("reserve_metadata_snap")

    @rule()
    def let_go(self):
        self.both.message("release_metadata_snap")

    @rule(old=st.integers(0, 2), new=st.integers(0, 2))
    def number(self, old, new):
        self.both.message("set_transaction_id", old, new)

    @rule()
    def commit(self):
        self.both.pool.commit()
        pools.accept(self.both.folder / "metadata")

    @rule()
    def reopen(self):
        self.both.reopen()


def test_any_script(home):
    Script.folder = home
    quick = settings.default.max_examples
    run_state_machine_as_test(Script, settings=settings(max_examples=quick, stateful_step_count=30, deadline=None))
