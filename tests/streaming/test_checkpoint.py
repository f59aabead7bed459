from __future__ import annotations

import json
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from model.keyed import Rows
from streaming.checkpoint import MOST_LINKS, Checkpoints
from streaming.checkpoint_files import chain, size_of
from streaming.tree import flatten, unflatten

ROOT = Path(__file__).resolve().parents[2]
TREE = {"model": {"w": np.arange(4, dtype=np.float32)}, "step": 3, "loss": float("nan")}

DTYPES = ["?", "u1", "i1", "u2", "i2", "f2", "u4", "i4", "f4", "u8", "i8", "f8"]
some_arrays = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0, max_side=3))
)
keys = st.text(st.characters(exclude_categories=["Cs"]), max_size=4) | st.sampled_from(
    ["", "/", "~", "~1", "$array", "$float", "$$array", "a/b", "__metadata__"]
)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
trees = st.dictionaries(
    keys,
    st.recursive(
        scalars | some_arrays,
        lambda child: st.lists(child, max_size=3) | st.dictionaries(keys, child, max_size=3),
        max_leaves=8,
    ),
    max_size=4,
)


def same(left, right) -> bool:
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[k], right[k]) for k in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, np.ndarray):
        described = (left.dtype, left.shape) == (right.dtype, right.shape)
        return described and left.tobytes() == right.tobytes()
    return repr(left) == repr(right)


@given(trees)
def test_a_tree_comes_back_the_same_from_its_parts(tree):
    assert same(unflatten(*flatten(tree)), tree)


@settings(max_examples=30)
@given(trees)
def test_a_tree_comes_back_the_same_from_the_disk(tree):
    with tempfile.TemporaryDirectory() as folder:
        Checkpoints(folder).save(tree, 1, 2)
        assert same(Checkpoints(folder).newest().tree, tree)


def test_arrays_of_a_checkpoint_can_be_written_to(tmp_path):
    Checkpoints(tmp_path).save(TREE, 1, 3)
    tree = Checkpoints(tmp_path).newest().tree
    tree["model"]["w"] += 1
    assert tree["model"]["w"].tolist() == [1, 2, 3, 4]


def test_two_saves_of_one_state_have_the_same_bytes(tmp_path):
    one = Checkpoints(tmp_path / "one").save(TREE, 1, 3)
    two = Checkpoints(tmp_path / "two").save(TREE, 1, 3)
    for name in ("state.safetensors", "tree.json", "manifest.json"):
        assert (one / name).read_bytes() == (two / name).read_bytes()


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"a": {"b/c": {1, 2}}}, "state '/a/b~1c' is a builtins.set"),
        ({"a": [1, np.float32(2)]}, "state '/a/1' is a numpy.float32"),
        ({"a": np.float64(2)}, "state '/a' is a numpy.float64"),
        ({"a": (1, 2)}, "state '/a' is a builtins.tuple"),
        ({"a": {1: 2}}, "state '/a' has the key 1"),
        ({"a": np.array(["x"])}, "array '/a' has dtype"),
        ({"a": np.zeros(2, ">f4")}, "array '/a' has dtype >f4"),
        ({"\ud800": np.zeros(2)}, "UTF-8"),
    ],
)
def test_a_leaf_that_does_not_fit_is_named_and_nothing_is_written(tmp_path, tree, message):
    with pytest.raises(ValueError, match=message):
        Checkpoints(tmp_path / "new").save(tree, 1, 1)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("epoch", "step"), [(-1, 0), (0, -1), (True, 0), (1, 2.0)])
def test_epoch_and_step_are_whole_numbers(tmp_path, epoch, step):
    with pytest.raises(ValueError, match="expected an integer"):
        Checkpoints(tmp_path).save(TREE, epoch, step)


def test_an_empty_or_missing_folder_holds_none(tmp_path):
    assert Checkpoints(tmp_path).newest() is None
    assert Checkpoints(tmp_path / "none").newest() is None
    assert Checkpoints(tmp_path / "none").last_epoch() == 0
    assert not (tmp_path / "none").exists()


def test_a_later_epoch_wins_over_a_higher_step(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(TREE, 1, 900)
    checkpoints.save(TREE, 2, 800)
    newest = checkpoints.newest()
    assert (newest.epoch, newest.step, newest.path.name) == (
        2,
        800,
        "epoch-000002.step-000000000800",
    )
    assert checkpoints.last_epoch() == 2


def test_numbers_beyond_the_padding_are_still_in_order(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(TREE, 1, 999_999_999_999)
    checkpoints.save(TREE, 1, 1_000_000_000_000)
    assert checkpoints.newest().step == 1_000_000_000_000


def test_the_last_few_are_kept_and_nothing_else_is_touched(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in range(5):
        checkpoints.save(TREE, 1, step)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "epoch-000001.step-000000000003",
        "epoch-000001.step-000000000004",
        "notes.txt",
    ]


def test_saving_the_same_step_again_replaces_it(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save({"n": 1}, 1, 5)
    checkpoints.save({"n": 2}, 1, 5)
    assert checkpoints.newest().tree == {"n": 2}
    assert len(list(tmp_path.iterdir())) == 1


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["state.safetensors", "tree.json", "manifest.json"])
def test_any_flipped_bit_is_refused_and_the_one_before_is_used(tmp_path, caplog, name):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(TREE, 1, 1)
    path = checkpoints.save(TREE, 1, 2) / name
    with caplog.at_level(logging.CRITICAL, "freshet.checkpoint"):
        for bit in range(path.stat().st_size * 8):
            flip(path, bit)
            assert checkpoints.newest().step == 1, bit
            flip(path, bit)
    assert checkpoints.newest().step == 2


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def rename_epoch(path: Path) -> None:
    path.parent.rename(path.parent.with_name("epoch-000007.step-000000000002"))


@pytest.mark.parametrize("name", ["state.safetensors", "tree.json", "manifest.json"])
@pytest.mark.parametrize("harm", [os.unlink, cut, rename_epoch])
def test_a_torn_checkpoint_is_refused_with_the_reason(tmp_path, caplog, name, harm):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(TREE, 1, 1)
    harm(checkpoints.save(TREE, 1, 2) / name)
    assert Checkpoints(tmp_path).newest().step == 1
    (record,) = caplog.records
    assert record.levelname == "WARNING" and record.name == "freshet.checkpoint"
    assert "step-000000000002 refused: " in record.getMessage()


@pytest.mark.parametrize("text", ["[]", "{}", '{"files":[]}', '{"files":1}', "[" * 100_000, "é"])
def test_a_manifest_of_something_else_is_refused(tmp_path, text):
    checkpoints = Checkpoints(tmp_path)
    path = checkpoints.save(TREE, 1, 1)
    (path / "manifest.json").write_text(text, encoding="latin-1")
    assert checkpoints.newest() is None


def test_a_refused_checkpoint_does_not_push_out_a_whole_one(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(TREE, 1, 1)
    flip(checkpoints.save(TREE, 1, 2) / "state.safetensors", 0)
    restarted = Checkpoints(tmp_path, keep=2)
    assert restarted.newest().step == 1
    flip(restarted.save(TREE, 2, 2) / "state.safetensors", 0)
    assert restarted.newest().step == 1


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(TREE, 1, 1)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            checkpoints.save(TREE, 1, 2)
    assert len(list(tmp_path.iterdir())) == 1
    assert checkpoints.newest().step == 1


def test_everything_is_on_the_disk_before_and_after_the_rename(tmp_path, monkeypatch):
    folder = tmp_path / "checkpoints"
    fsync, rename, calls = os.fsync, os.rename, []

    def recorded_fsync(descriptor):
        calls.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    def recorded_rename(source, target):
        calls.append(f"{Path(source).name} -> {Path(target).name}")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "rename", recorded_rename)
    name = Checkpoints(folder).save(TREE, 1, 2).name
    files = ["state.safetensors", "tree.json", "manifest.json"]
    saving = f".saving-{name}"
    assert calls == [tmp_path.name, *files, saving, f"{saving} -> {name}", "checkpoints"]


KILLED_AT = """
import os, shutil, signal, sys
import numpy as np
from streaming.checkpoint import Checkpoints

calls = 0

def then_die(call):
    def counted(*arguments, **options):
        global calls
        calls += 1
        if calls == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **options)
    return counted

checkpoints = Checkpoints(sys.argv[1], keep=1)
checkpoints.save({"w": np.full(1000, 1)}, 1, 1)
os.fsync, os.rename, os.unlink = then_die(os.fsync), then_die(os.rename), then_die(os.unlink)
shutil.rmtree = then_die(shutil.rmtree)
checkpoints.save({"w": np.full(1000, int(sys.argv[3]))}, 1, int(sys.argv[3]))
print(calls)
"""


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("step", [2, 1])
def test_a_kill_before_any_call_to_the_disk_leaves_a_whole_one(tmp_path, step):
    count = int(run(KILLED_AT, tmp_path / "whole", 0, step).stdout)
    assert count >= 7
    for at in range(1, count + 1):
        folder = tmp_path / str(at)
        assert run(KILLED_AT, folder, at, step).returncode == -signal.SIGKILL
        newest = Checkpoints(folder).newest()
        if newest is None:
            assert step == 1, "only a checkpoint replaced by its own name may be missing"
        else:
            assert newest.tree["w"].tolist() == [newest.step] * 1000
        Checkpoints(folder, keep=1).save(TREE, 2, 3)
        assert [p.name for p in folder.iterdir()] == ["epoch-000002.step-000000000003"]


SAVES_FOR_EVER = """
import sys
import numpy as np
from streaming.checkpoint import Checkpoints

checkpoints = Checkpoints(sys.argv[1], keep=2)
newest = checkpoints.newest()
epoch, step = (newest.epoch + 1, newest.step) if newest else (1, 0)
while True:
    step += 1
    checkpoints.save({"step": step, "w": np.full(200_000, step)}, epoch, step)
    print(step, flush=True)
"""


def test_kills_in_the_middle_of_saving_never_lose_a_checkpoint_that_was_announced(tmp_path):
    draw = random.Random(5)
    moments = (".saving-*", ".saving-*/state.*", ".saving-*/manifest.json", ".removing-*")
    announced, seen = 0, set()
    for _ in range(15):
        command = [sys.executable, "-c", SAVES_FOR_EVER, str(tmp_path)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            for _ in range(draw.randint(1, 5)):
                announced = int(process.stdout.readline())
            moment = draw.choice(moments)
            while not any(tmp_path.glob(moment)):
                assert process.poll() is None
            process.kill()
            announced = max([announced, *map(int, process.stdout.read().split())])
        seen.update(p.name.split("-")[0] for p in tmp_path.iterdir())
        newest = Checkpoints(tmp_path).newest()
        assert announced <= newest.step <= announced + 1
        assert newest.tree["step"] == newest.step
        assert (newest.tree["w"] == newest.step).all()
        announced = newest.step
    assert ".saving" in seen, "no kill fell into a save: make the tree larger"


def test_manifest_names_every_file_with_size_and_digest(tmp_path):
    path = Checkpoints(tmp_path).save(TREE, 4, 9)
    manifest = json.loads((path / "manifest.json").read_text())
    assert (manifest["format"], manifest["epoch"], manifest["step"]) == (2, 4, 9)
    for name, file in manifest["files"].items():
        assert (path / name).stat().st_size == file["size"]
    assert sorted(p.name for p in path.iterdir()) == sorted([*manifest["files"], "manifest.json"])


def table(keys, value, whole=False, gone=()) -> dict:
    keys = np.array(keys, np.int64)
    arrays = {"keys": keys, "rows": np.full((len(keys), 50), value, np.float32)}
    rows = Rows(arrays, whole, np.array(gone, np.int64), {"clock": np.array([value])})
    return {"deep": {"rows": rows}, "n": value}


def test_what_changed_is_put_together_with_what_it_builds_on(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    whole = checkpoints.save(table([5, 1, 3], 0, whole=True), 1, 1)
    part = checkpoints.save(table([9, 3], 1, gone=[5]), 1, 2)
    tree = Checkpoints(tmp_path).newest().tree
    rows = tree["deep"]["rows"]
    assert rows["keys"].tolist() == [1, 3, 9]
    assert rows["rows"][:, 0].tolist() == [0, 1, 1]
    assert (rows["clock"].tolist(), tree["n"]) == ([1], 1)
    sizes = [(path / "state.safetensors").stat().st_size for path in (whole, part)]
    assert sizes[1] < sizes[0], "it holds more than what changed"


def test_a_chain_is_bounded_and_what_a_kept_one_builds_on_stays(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(table(range(1000), 0, whole=True), 1, 0)
    most, expected = 0, np.zeros(1000)
    for step in range(1, 2 * MOST_LINKS):
        key = step * 7 % 1000
        checkpoints.save(table([key], step), 1, step)
        expected[key] = step
        most = max(most, len(list(tmp_path.iterdir())))
        rows = Checkpoints(tmp_path).newest().tree["deep"]["rows"]
        assert rows["rows"][:, 0].tolist() == expected.tolist()
    assert most <= MOST_LINKS + 1
    for step in range(100, 110):
        last = checkpoints.save(table(range(700), step), 1, step)
        *parts, whole = map(size_of, chain(last))
        assert sum(parts[1:]) <= whole, "what changed has come to more than the whole"


@pytest.mark.parametrize("harm", ["flip", "cut", "lose", "swap"])
def test_one_that_builds_on_a_damaged_one_is_refused_with_the_reason(tmp_path, caplog, harm):
    checkpoints = Checkpoints(tmp_path, keep=5)
    first = checkpoints.save(table([1], 1, whole=True), 1, 1)
    base = checkpoints.save(table([2], 2), 1, 2)
    checkpoints.save(table([3], 3), 1, 3)
    if harm == "swap":  # whole in itself, but not what the next one was written after
        other = Checkpoints(tmp_path / "other").save(table([7], 7, whole=True), 1, 2)
        base.rename(tmp_path / "away")
        other.rename(base)
    else:
        file = base / "state.safetensors"
        {"flip": lambda: flip(file, 4000), "cut": lambda: cut(file), "lose": file.unlink}[harm]()
    newest = Checkpoints(tmp_path).newest()
    assert newest.path == (base if harm == "swap" else first)
    assert "epoch-000001.step-000000000003 refused" in caplog.messages[0]
    assert base.name in caplog.messages[0]


def test_of_the_same_step_again_it_is_whole_and_replaces_what_it_builds_on(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(table([1, 2], 1, whole=True), 1, 5)
    checkpoints.save(table([2], 2), 1, 5)
    tree = Checkpoints(tmp_path).newest().tree
    assert tree["deep"]["rows"]["rows"][:, 0].tolist() == [1, 2]


def test_a_newer_format_is_refused_with_the_reason_and_the_one_before_is_used(tmp_path, caplog):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(TREE, 1, 1)
    manifest = checkpoints.save(TREE, 1, 2) / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format":2', '"format":3'))
    assert Checkpoints(tmp_path).newest().step == 1
    assert "of format 3, expected 2" in caplog.text


def test_half_renamed_the_one_before_is_used_and_the_next_one_is_whole(tmp_path):
    """As a machine that went down between setting the old one aside and the rename leaves it."""
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(TREE, 1, 1)
    path = checkpoints.save(TREE, 1, 2)
    path.rename(tmp_path / f".removing-{path.name}")
    again = Checkpoints(tmp_path)
    assert again.newest().step == 1
    again.save({"n": 3}, 2, 3)
    assert again.newest().tree == {"n": 3}
    assert not list(tmp_path.glob(".removing-*"))


def test_what_an_epoch_adds_after_its_time_is_not_taken_for_the_newest(tmp_path, caplog):
    zombie, later = Checkpoints(tmp_path), Checkpoints(tmp_path)
    zombie.begin(1)
    zombie.save({"n": 1}, 1, 10)
    assert later.newest().step == 10
    later.begin(2)
    others = tmp_path / ".saving-epoch-000002.step-000000000011"
    others.mkdir()
    for step in (11, 12, 13):
        zombie.save({"n": 2}, 1, step)
    assert Checkpoints(tmp_path).newest().tree == {"n": 1}
    assert "after epoch 2 had begun" in caplog.text
    assert others.is_dir(), "the zombie removed what was not its own"
    later.save({"n": 3}, 2, 11)
    assert Checkpoints(tmp_path).newest().tree == {"n": 3}
    Checkpoints(tmp_path).begin(7)
    assert Checkpoints(tmp_path).last_epoch() == 7
