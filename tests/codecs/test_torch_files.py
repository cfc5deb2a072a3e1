"""Torch zip files and statistics pickles, without torch: what is read, what is refused, and what a written file looks like."""

from __future__ import annotations

import contextlib
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pickle_world import BUILD, items, name, ordered, run, text
from torch_world import mapping, stored, tensor_of, torch_file

from actlink.codecs import torch_files
from actlink.codecs.safe_pickle import Limits, Record
from actlink.errors import ConfigError

SIX = np.arange(6, dtype="<f4")
RAW = SIX.tobytes()


def refused(path: Path, reason: str) -> str:
    with pytest.raises(ConfigError, match=reason) as caught:
        torch_files.load(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_tensors_are_read_only_views_on_the_file(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch_files.save(path, {"a": SIX.reshape(2, 3)})
    array = torch_files.state_dict(path)["a"]
    assert not array.flags.owndata and not array.flags.writeable and array.flags.aligned
    assert array.__array_interface__["data"][0] % 64 == 0, "mapped pages begin at multiples of 64, and so do storages"
    np.testing.assert_array_equal(array, [[0, 1, 2], [3, 4, 5]])


@pytest.mark.parametrize("kind", ["b1", "i1", "u1", "i2", "i4", "i8", "f2", "f4", "f8", ">f4", ">i8"])
def test_what_is_written_is_read_bit_for_bit(tmp_path: Path, kind: str) -> None:
    random = np.random.default_rng(0)
    tensors = {
        "flat": (random.uniform(-50, 50, 7) if kind != "b1" else random.integers(0, 2, 7)).astype(kind),
        "scalar": np.array(1, kind),
        "empty": np.zeros((0, 3), kind),
        "turned": random.integers(0, 2, (4, 5)).astype(kind).T,
        "ä.β": np.ones((1, 2, 3), kind),
    }
    torch_files.save(tmp_path / "w.ckpt", tensors)
    read = torch_files.state_dict(tmp_path / "w.ckpt")
    assert list(read) == list(tensors)
    for key, array in tensors.items():
        np.testing.assert_array_equal(read[key], array)
        assert read[key].dtype == array.dtype.newbyteorder("<") and read[key].shape == array.shape


def test_an_array_given_twice_is_stored_once(tmp_path: Path) -> None:
    array = np.zeros(1000)
    torch_files.save(tmp_path / "w.pt", {"embed": array, "head": array})
    assert (tmp_path / "w.pt").stat().st_size < 1.5 * array.nbytes
    read = torch_files.state_dict(tmp_path / "w.pt")
    assert np.shares_memory(read["embed"], read["head"])


def test_what_cannot_be_written_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'c' is complex64"):
        torch_files.save(tmp_path / "w.pt", {"c": np.zeros(2, "c8")})
    with pytest.raises(ConfigError, match="expected arrays by name, got list for 'c'"):
        torch_files.save(tmp_path / "w.pt", {"c": [1.0]})  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match="cannot be written"):
        torch_files.save(tmp_path / "missing" / "w.pt", {"c": SIX})
    assert list(tmp_path.iterdir()) == []


def test_strides_offsets_and_shared_storages(tmp_path: Path) -> None:
    value = mapping(
        turned=tensor_of(stored(), (3, 2), (1, 3)),
        row=tensor_of(stored(), (3,), (1,), 3),
        wide=tensor_of(stored(), (4, 1), (0, 1), 5),
    )
    read = torch_files.state_dict(torch_file(tmp_path / "w.pt", value, {"0": RAW}))
    np.testing.assert_array_equal(read["turned"], SIX.reshape(2, 3).T)
    np.testing.assert_array_equal(read["row"], [3, 4, 5])
    np.testing.assert_array_equal(read["wide"], [[5]] * 4)
    assert np.shares_memory(read["turned"], read["row"])


def test_bfloat16_is_widened_exactly(tmp_path: Path) -> None:
    bits = np.array([0x3F80, 0xC049, 0x7F80, 0x0001], "<u2")
    value = mapping(w=tensor_of(stored(count=4, cls="BFloat16Storage"), (4,), (1,)))
    array = torch_files.state_dict(torch_file(tmp_path / "w.pt", value, {"0": bits.tobytes()}))["w"]
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, np.array([1.0, -3.140625, np.inf, 9.183549615799121e-41], np.float32))


def test_a_state_dict_with_metadata_and_parameters(tmp_path: Path) -> None:
    parameter = run("torch._utils", "_rebuild_parameter", tensor_of(stored()), b"\x88", ordered())
    value = ordered() + b"(" + text("w") + parameter + b"u" + mapping(_metadata=ordered()) + BUILD
    read = torch_files.load(torch_file(tmp_path / "w.pt", value, {"0": RAW}))
    assert list(read) == ["w"] and read["w"].shape == (2, 3)


@pytest.mark.parametrize("key", torch_files.WRAPPERS)
def test_a_state_dict_beside_other_things(tmp_path: Path, key: str) -> None:
    inner = mapping(w=tensor_of(stored()), _extra_state=run("some", "Thing"))
    value = mapping(epoch=b"K\x03", **{key: inner}, args=run("argparse", "Namespace"))
    path = torch_file(tmp_path / "w.pt", value, {"0": RAW})
    assert list(torch_files.state_dict(path)) == ["w"], key
    assert torch_files.load(path)["args"].name == "Namespace"


def test_no_state_dict_is_an_error_that_says_what_is_there(tmp_path: Path) -> None:
    whole = torch_file(tmp_path / "whole.pt", run("policy.model", "ACTPolicy"))
    with pytest.raises(ConfigError, match=r"object of class 'policy.model.ACTPolicy': the module was saved whole.* python -c"):
        torch_files.state_dict(whole)
    with pytest.raises(ConfigError, match="got a dict with the keys 'epoch'"):
        torch_files.state_dict(torch_file(tmp_path / "x.pt", mapping(epoch=b"K\x03")))
    with pytest.raises(ConfigError, match="tensors by name"):
        torch_files.state_dict(torch_file(tmp_path / "x.pt", b"K\x03"))


def test_deflated_entries_are_unpacked(tmp_path: Path) -> None:
    path = torch_file(tmp_path / "w.pt", mapping(w=tensor_of(stored())), {"0": RAW}, method=zipfile.ZIP_DEFLATED)
    np.testing.assert_array_equal(torch_files.state_dict(path)["w"].ravel(), SIX)


BAD_VALUES: dict[str, tuple[bytes, str]] = {
    "shape beyond the storage": (tensor_of(stored(), (2, 4), (4, 1)), "reaches to element 7 of a storage of 6"),
    "stride beyond the storage": (tensor_of(stored(), (2, 3), (10, 1)), "reaches to element 12"),
    "offset beyond the storage": (tensor_of(stored(), offset=1), "reaches to element 6"),
    "negative stride": (tensor_of(stored(), (2, 3), (-3, 1)), "strides do not fit"),
    "endless repetition": (tensor_of(stored(), (2**30, 2**30), (0, 0)), "more bytes than the limit"),
    "more elements than bytes": (tensor_of(stored(count=7)), "7 elements of f4 announced, 24 bytes there"),
    "negative count": (tensor_of(stored(count=-1)), "-1 elements"),
    "storage that is not there": (tensor_of(stored("1")), "not in the archive"),
    "storage elsewhere": (tensor_of(stored("../data.pkl")), "not in the archive"),
    "storage as two dtypes": (
        mapping(a=tensor_of(stored()), b=tensor_of(stored(cls="IntStorage"))),
        "under two descriptions",
    ),
    "storage of no known class": (tensor_of(stored(cls="QInt8Storage")), "QInt8Storage"),
    "storage class of another module": (tensor_of(stored(module="os")), "os.FloatStorage"),
    "boolean 2": (tensor_of(stored(cls="BoolStorage", count=24), (24,), (1,)), "neither 0 nor 1"),
    "odd persistent id": (text("storage") + b"Q", "persistent id"),
    "items set in an object": (run("lightning", "AttributeDict") + b"(" + text("a") + b"K\x01u", "not in a dict"),
}


@pytest.mark.parametrize("case", BAD_VALUES)
def test_what_is_wrong_inside_is_refused_with_the_byte_and_the_way_out(tmp_path: Path, case: str) -> None:
    value, reason = BAD_VALUES[case]
    raw = bytes([2]) * 24 if "boolean" in case else RAW
    message = refused(torch_file(tmp_path / "policy_best.ckpt", value, {"0": raw}), reason)
    assert "data.pkl: byte" in message and "torch.load('policy_best.ckpt'" in message


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def _appended(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def _prepended(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:4] + b"\0" * 10 + path.read_bytes()[4:])


def _two(path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("a/data/0", RAW)


def _named(name: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(zipfile.ZipInfo(name), b"")

    return change


def _directory_changed(find: bytes, offset: int, value: bytes) -> Callable[[Path], None]:
    """Sets bytes of the last directory entry (or the end record)."""

    def change(path: Path) -> None:
        data = bytearray(path.read_bytes())
        at = data.rindex(find) + offset
        data[at : at + len(value)] = value
        path.write_bytes(data)

    return change


BAD_ARCHIVES: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut off": (_cut, "no end record"),
    "bytes behind": (_appended, "bytes behind its end record"),
    "bytes before": (_prepended, "does not end at its end record"),
    "entry twice": (_two, "two entries named 'a/data/0'"),
    "path that climbs": (_named("../../evil"), "leads out of it"),
    "absolute path": (_named("/etc/evil"), "leads out of it"),
    "drive": (_named("C:evil"), "leads out of it"),
    "program": (_named("a/code/policy.py"), "TorchScript"),
    "two pickles": (_named("b/data.pkl"), "expected one <name>/data.pkl"),
    "stored size lies": (_directory_changed(b"PK\x01\x02", 24, struct.pack("<L", 2**31)), "its header says 2147483648"),
    "packed size lies": (_directory_changed(b"PK\x01\x02", 20, struct.pack("<L", 2**31)), "reaches beyond the archive"),
    "entries overlap": (_directory_changed(b"PK\x01\x02", 42, struct.pack("<L", 0)), "overlaps|differ"),
    "begins outside": (_directory_changed(b"PK\x01\x02", 42, struct.pack("<L", 2**31)), "begins outside"),
    "encrypted": (_directory_changed(b"PK\x01\x02", 8, b"\x01"), "encrypted"),
    "unknown compression": (_directory_changed(b"PK\x01\x02", 10, b"\x0c"), "differ"),
    "entries without number": (_directory_changed(b"PK\x05\x06", 8, b"\xfe\xff\xfe\xff"), "65534 entries"),
    "directory elsewhere": (_directory_changed(b"PK\x05\x06", 16, b"\0\0\0\0"), "does not end at its end record"),
    "several parts": (_directory_changed(b"PK\x05\x06", 4, b"\x01"), "several parts"),
}


@pytest.mark.parametrize("case", BAD_ARCHIVES)
def test_archives_that_two_programs_could_read_differently_are_refused(tmp_path: Path, case: str) -> None:
    change, reason = BAD_ARCHIVES[case]
    path = torch_file(tmp_path / "w.pt", mapping(w=tensor_of(stored())), {"0": RAW})
    torch_files.load(path)
    change(path)
    refused(path, reason)


def test_every_truncation_is_an_error_of_ours(tmp_path: Path) -> None:
    whole = torch_file(tmp_path / "w.pt", mapping(w=tensor_of(stored())), {"0": RAW}).read_bytes()
    for length in range(len(whole)):
        (tmp_path / "cut.pt").write_bytes(whole[:length])
        with pytest.raises(ConfigError):
            torch_files.load(tmp_path / "cut.pt")


def test_every_changed_byte_is_read_or_an_error_of_ours(tmp_path: Path) -> None:
    whole = torch_file(tmp_path / "w.pt", mapping(w=tensor_of(stored())), {"0": RAW}).read_bytes()
    for at in range(len(whole)):
        for value in (0, 0xFF, whole[at] ^ 1):
            with contextlib.suppress(ConfigError):
                torch_files.load_from(memoryview(whole[:at] + bytes([value]) + whole[at + 1 :]))


def test_files_that_are_no_torch_files(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    for content, reason in (
        (b"", "an empty file"),
        (b"\x89HDF\r\n\x1a\n", "not a torch file"),
        (pickle.dumps({"a": 1}), "not a torch file"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "before torch 1.6"),
    ):
        path.write_bytes(content)
        refused(path, reason)
    refused(tmp_path, "cannot be read")
    refused(tmp_path / "missing.pt", "No such file")


def test_limits_are_the_callers_to_lower(tmp_path: Path) -> None:
    path = torch_file(tmp_path / "w.pt", mapping(w=tensor_of(stored())), {"0": RAW})
    with pytest.raises(ConfigError, match="more operations"):
        torch_files.load(path, Limits(operations=10))


def test_statistics_pickles(tmp_path: Path) -> None:
    stats = {"action_mean": np.arange(14, dtype=np.float32), "qpos_std": np.float64(2.0), "example_qpos": np.zeros((400, 14))}
    path = tmp_path / "dataset_stats.pkl"
    for protocol in (2, 3, 4, 5):
        path.write_bytes(pickle.dumps(stats, protocol))
        read = torch_files.load_pickle(path)
        assert {key: np.array_equal(read[key], value) for key, value in stats.items()} == dict.fromkeys(stats, True)
    path.write_bytes(pickle.dumps(stats, 0))
    with pytest.raises(ConfigError, match=r"dataset_stats.pkl: byte 0: pickle protocol 0.*plain_dataset_stats.pkl"):
        torch_files.load_pickle(path)
    with pytest.raises(ConfigError, match="No such file"):
        torch_files.load_pickle(tmp_path / "missing.pkl")


def test_objects_are_inert(tmp_path: Path) -> None:
    value = torch_files.load(torch_file(tmp_path / "w.pt", name("os", "system") + items(text("exit 3")) + b"R"))
    assert type(value) is Record and (value.module, value.name, value.args) == ("os", "system", ("exit 3",))
