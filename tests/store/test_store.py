"""A store over each driver: a day's work, what is refused, damage, collection, several processes."""

from __future__ import annotations

from typing import Any

import pytest

from lamella.image.documents import OCI_CONFIG
from tests.store import scenes

NEEDS = {"vfs": "mount", "overlay": "overlay", "btrfs": "btrfs", "aufs": "fuse"}
each_driver = pytest.mark.parametrize("driver", [pytest.param(name, marks=pytest.mark.requires(part)) for name, part in NEEDS.items()])


@each_driver
def test_a_day_s_work(box: Any, driver: str) -> None:
    assert box.call(scenes.workday, driver) == {}


@each_driver
@pytest.mark.requires("userns")
def test_a_day_s_work_in_a_user_namespace(user_box: Any, driver: str) -> None:
    assert user_box.call(scenes.workday, driver) == {}


@each_driver
def test_layers_one_by_one(box: Any, driver: str) -> None:
    assert box.call(scenes.layers, driver) == {"keys": True, "again": True, "same": True, "tree": []}


@each_driver
def test_what_is_refused(box: Any, driver: str) -> None:
    said = box.call(scenes.refused, driver)
    kinds = {what: text.partition(":")[0] for what, text in said.items()}
    assert {what: kinds[what] for what in kinds if what not in ("left", "busy")} == {
        "taken": "SnapshotExists", "nowhere": "SnapshotNotFound", "on active": "WrongSnapshotKind", "in use": "SnapshotInUse",
        "commit view": "WrongSnapshotKind", "taken name": "SnapshotExists", "empty": "ValueError", "other driver": "StoreError",
        "other options": "StoreError", "unknown driver": "UnknownDriver", "not a store": "StoreError",
        "mounted": "SnapshotInUse", "mounted commit": "SnapshotInUse",
    }  # fmt: skip
    assert said["left"] == "[]"
    assert kinds.get("busy", "OSError") == "OSError"


@each_driver
def test_damage_is_found_and_what_can_be_is_mended(box: Any, driver: str) -> None:
    found = box.call(scenes.damaged, driver)
    assert (found["first"], found["second"], found["gone"]) == (["other"], [], True)
    assert found["third"] == ["digest"]
    assert found["error"] == "CodecError"  # the size at the end of the gzip stream
    keys, numbers, problems = found["left"]
    assert keys == []
    assert [name for name in numbers if name.isdecimal()] == []
    assert problems == []


@each_driver
def test_gc_keeps_what_somebody_needs(box: Any, driver: str) -> None:
    found = box.call(scenes.collected, driver)
    assert found["nothing"] == ((), 0)
    assert (found["after"], found["freed"], found["left"], found["first"], found["usage"]) == (0, True, 2, True, True)
    assert (found["last"], found["blobs"], found["rows"], found["check"]) == (1, 0, 0, [])


@each_driver
def test_mounts_are_shared_and_can_be_kept(box: Any, driver: str) -> None:
    found = box.call(scenes.shared, driver)
    assert found == {"same": True, "status": 0, "still": True, "kept": (0, True), "left": []}


@each_driver
def test_an_image_of_nothing_but_edits(box: Any, driver: str) -> None:
    assert box.call(scenes.config_of, driver) == OCI_CONFIG


@each_driver
def test_eight_processes(box: Any, driver: str) -> None:
    found = box.call(scenes.together, driver, 8, timeout=120)
    assert found == {"errors": [], "done": 24, "check": [], "mounts": []}


@each_driver
def test_killed_at_every_recorded_step(box: Any, driver: str) -> None:
    found = box.call(scenes.killed, driver, timeout=240)
    assert found["wrong"] == []
    assert found["steps"] > 25


@each_driver
def test_killed_at_any_time(box: Any, driver: str) -> None:
    found = box.call(scenes.killed_any_time, driver, 20, 20, timeout=240)
    assert found["wrong"] == []
    assert found["died"] > 0


@each_driver
def test_what_is_committed_cannot_be_written(box: Any, driver: str) -> None:
    said = box.call(scenes.read_only, driver)
    assert said["committed"] == "Read-only file system"
    assert said["look"] == ("written" if driver == "vfs" else "Read-only file system")  # a copy, which nobody else has
    assert said["later"] == "one"


@each_driver
def test_a_mount_of_a_dead_process_that_is_in_use_is_the_next_one_s(box: Any, driver: str) -> None:
    assert box.call(scenes.left_busy, driver) == {"killed": True, "still": True, "again": "mine", "left": []}
