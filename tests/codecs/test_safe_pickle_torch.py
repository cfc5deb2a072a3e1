"""torch tensors without torch: the legacy stream, views of one storage, and what real torch makes of ours."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pickle_world import (
    EMPTY_LIST,
    FALSE,
    HERE,
    MARK,
    MEMOIZE,
    NONE,
    call,
    integer,
    items,
    name,
    ordered,
    raw,
    run,
    storage,
    stream,
    tensor,
    text,
    torch_blob,
)

from actlink.codecs.safe_pickle import Limits, PickleDecodeError, Tensor, decode, encode
from actlink.errors import LocalProtocolError

SIX = np.arange(6, dtype=np.float32)
BLOB = torch_blob(count=6, data=SIX.tobytes())


def refused(data: bytes, why: str, **limits: int) -> None:
    with pytest.raises(PickleDecodeError, match=why):
        decode(data, Limits(**limits))


@pytest.mark.parametrize(
    ("cls", "values", "dtype"),
    [
        ("torch\nFloatStorage", np.array([1.5, -2], "<f4"), "f4"),
        ("torch\nDoubleStorage", np.array([1.5, -2], "<f8"), "f8"),
        ("torch\nHalfStorage", np.array([1.5, -2], "<f2"), "f2"),
        ("torch\nLongStorage", np.array([1, -2], "<i8"), "i8"),
        ("torch\nIntStorage", np.array([1, -2], "<i4"), "i4"),
        ("torch\nShortStorage", np.array([1, -2], "<i2"), "i2"),
        ("torch\nCharStorage", np.array([1, -2], "i1"), "i1"),
        ("torch\nByteStorage", np.array([1, 2], "u1"), "u1"),
        ("torch\nBoolStorage", np.array([1, 0], "?"), "b1"),
    ],
)
def test_every_storage_class_has_its_dtype(cls: str, values: np.ndarray, dtype: str) -> None:
    back = decode(stream(tensor(torch_blob(cls, 2, values.tobytes()))))
    assert back.dtype == dtype and np.array_equal(back, values) and not back.flags.writeable


def test_bfloat16_becomes_float32() -> None:
    halves = (np.array([1.5, -2.0], "<f4").view("<u4") >> 16).astype("<u2")
    back = decode(stream(tensor(torch_blob("torch\nBFloat16Storage", 2, halves.tobytes()))))
    assert back.dtype == np.float32 and back.tolist() == [1.5, -2.0] and not back.flags.writeable


@pytest.mark.parametrize(
    ("offset", "size", "stride", "values"),
    [
        (0, (6,), (1,), SIX),
        (0, (2, 3), (3, 1), SIX.reshape(2, 3)),
        (0, (3, 2), (1, 3), SIX.reshape(2, 3).T),
        (3, (3,), (1,), SIX[3:]),
        (1, (2, 2), (3, 1), SIX.reshape(2, 3)[:, 1:]),
        (5, (), (), np.float32(5)),
        (2, (3, 4), (0, 0), np.full((3, 4), 2)),
        (0, (0, 3), (3, 1), np.zeros((0, 3))),
        (0, (1, 6), (2**40, 1), SIX.reshape(1, 6)),
    ],
)
def test_views_are_what_torch_says(offset: int, size: tuple[int, ...], stride: tuple[int, ...], values: np.ndarray) -> None:
    strides = items(*(b"\x8a\x08" + struct.pack("<q", step) for step in stride))
    data = stream(
        run(
            "torch._utils",
            "_rebuild_tensor_v2",
            storage(BLOB),
            integer(offset),
            items(*map(integer, size)),
            strides,
            FALSE,
            ordered(),
        )
    )
    back = decode(data)
    assert back.shape == size and np.array_equal(back, values)


def test_rows_of_one_chunk_share_one_storage() -> None:
    """LeRobot's server sends the whole chunk's storage with every row: read once, every row a view of it."""
    rows = [tensor(BLOB, offset=3 * row, size=(3,)) for row in (0, 1)]
    first, second = decode(stream(EMPTY_LIST, MARK, *rows, b"e"))
    assert first.tolist() == [0, 1, 2] and second.tolist() == [3, 4, 5]
    assert first.base is second.base and first.base is not None
    load = name("torch.storage", "_load_from_bytes")
    tail = integer(0) + items(integer(6)) + items(integer(1)) + FALSE + ordered()
    again = call(name("torch._utils", "_rebuild_tensor_v2"), call(load, b"h\x00") + tail)
    same, too = decode(stream(EMPTY_LIST, MARK, raw(BLOB), MEMOIZE, again, again, b"e"))[1:]
    assert same.base is too.base and same.tolist() == [0, 1, 2, 3, 4, 5]


def test_large_storages_are_views_on_the_message() -> None:
    data = stream(tensor(torch_blob(count=5000, data=bytes(20_000)), size=(5000,)))
    assert np.shares_memory(decode(data), np.frombuffer(data, np.uint8))


def test_parameters_sizes_and_attributes() -> None:
    inner = tensor(BLOB, size=(6,))
    assert np.array_equal(decode(stream(run("torch._utils", "_rebuild_parameter", inner, FALSE, ordered()))), SIX)
    args = items(storage(BLOB), integer(0), items(integer(6)), items(integer(1)), FALSE, ordered())
    rebuild = name("torch._utils", "_rebuild_tensor_v2")
    tagged = run("torch._tensor", "_rebuild_from_type_v2", rebuild, name("torch", "Tensor"), args, NONE)
    assert np.array_equal(decode(stream(tagged)), SIX)
    assert decode(stream(run("torch", "Size", items(integer(2), integer(3))))) == (2, 3)


def newer(kind: str = "uint16", blob: bytes | None = None, module: str = "torch") -> bytes:
    blob = torch_blob("torch.storage\nUntypedStorage", 4, b"\x01\x00\x02\x00") if blob is None else blob
    shape = items(integer(2)), items(integer(1))
    return stream(
        run("torch._utils", "_rebuild_tensor_v3", storage(blob), integer(0), *shape, FALSE, ordered(), name(module, kind))
    )


def test_dtypes_without_a_storage_class() -> None:
    assert decode(newer()).tolist() == [1, 2] and decode(newer()).dtype == np.uint16
    refused(newer("float8_e5m2"), "a torch tensor of dtype 'torch.float8_e5m2'")
    refused(newer(module="os"), "a torch tensor of dtype 'os.uint16'")
    refused(newer("uint64"), "a torch tensor of dtype 'torch.uint64'")
    refused(newer(blob=BLOB), "_rebuild_tensor_v3 takes")


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"magic": b"\x80\x02K\x01."}, "its magic number or protocol is wrong"),
        ({"magic": b"\x80\x02N."}, "its magic number or protocol is wrong"),
        ({"magic": b"N."}, "without a pickle of protocol 2 at its byte 0"),
        ({"magic": b"\x80\x04N."}, "without a pickle of protocol 2 at its byte 0"),
        ({"magic": b"\x80\x02ca\nb\n)R."}, "magic number"),
        ({"magic": b"\x80\x02P."}, "in a torch stream, byte 2: opcode PERSID is not read"),
        ({"protocol": b"\x80\x02M\xea\x03."}, "its magic number or protocol is wrong"),
        ({"protocol": b"\x80\x02N."}, "its magic number or protocol is wrong"),
        ({"system": b"\x80\x02N."}, "not little-endian"),
        ({"system": b"\x80\x02}X\r\x00\x00\x00little_endian\x89s."}, "not little-endian"),
        ({"storage": b"\x80\x02N."}, "whose storage is not described"),
        ({"storage": b"\x80\x02NQ."}, "whose storage is not described"),
        ({"storage": b"\x80\x02)Q."}, "whose storage is not described"),
        ({"storage": b"\x80\x02(NNNNNNtQ."}, "whose storage is not described"),
        ({"storage": torch_blob("os\nsystem").split(b".")[3] + b"."}, "storage of class 'os.system'"),
        ({"keys": b"\x80\x02]."}, "keys do not name"),
        ({"keys": b"\x80\x02N."}, "keys do not name"),
        ({"keys": b"\x80\x02]Na."}, "keys do not name"),
        ({"keys": b"\x80\x02]X\x01\x00\x00\x001a."}, "keys do not name"),
        ({"length": struct.pack("<q", 3)}, "a torch storage of 2 elements followed by 8 bytes"),
        ({"length": b""}, "a torch storage of 2 elements followed by 0 bytes"),
        ({"length": b"", "data": b""}, "followed by 0 bytes"),
        ({"data": bytes(9)}, "followed by 9 bytes"),
    ],
)
def test_a_broken_stream_is_refused(changed: dict[str, bytes], why: str) -> None:
    refused(stream(tensor(torch_blob(**changed))), why)


@pytest.mark.parametrize(
    ("cls", "count"),
    [("torch\nComplexFloatStorage", 1), ("torch\nFloatStorage", -1), ("torch\nQInt8Storage", 8), ("os\nFloatStorage", 2)],
)
def test_other_storages_are_refused(cls: str, count: int) -> None:
    refused(stream(tensor(torch_blob(cls, count))), "a torch storage of class")


def test_booleans_are_0_or_1() -> None:
    refused(stream(tensor(torch_blob("torch\nBoolStorage", 2, b"\x01\x02"))), "a boolean that is neither 0 nor 1")


def rebuilt(*args: bytes) -> bytes:
    return stream(run("torch._utils", "_rebuild_tensor_v2", *args))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (stream(run("torch.storage", "_load_from_bytes")), "_load_from_bytes takes bytes"),
        (stream(run("torch.storage", "_load_from_bytes", NONE)), "_load_from_bytes takes bytes"),
        (stream(storage(BLOB)), "Storage that was never completed"),
        (rebuilt(storage(BLOB)), "_rebuild_tensor_v2 takes"),
        (rebuilt(NONE, NONE, NONE, NONE, NONE, NONE), "_rebuild_tensor_v2 takes"),
        (rebuilt(storage(torch_blob("torch.storage\nUntypedStorage", 8)), *[NONE] * 5), "_rebuild_tensor_v2 takes"),
        (rebuilt(storage(BLOB), integer(0), NONE, NONE, FALSE, NONE), "a shape is a tuple"),
        (rebuilt(storage(BLOB), integer(0), items(integer(6)), NONE, FALSE, NONE), "strides do not fit its size"),
        (rebuilt(storage(BLOB), integer(0), items(integer(6)), items(), FALSE, NONE), "strides do not fit its size"),
        (rebuilt(storage(BLOB), integer(0), items(integer(6)), items(NONE), FALSE, NONE), "strides do not fit its size"),
        (rebuilt(storage(BLOB), integer(0), items(integer(6)), items(integer(-1)), FALSE, NONE), "strides do not fit its size"),
        (rebuilt(storage(BLOB), NONE, items(integer(6)), items(integer(1)), FALSE, NONE), "at offset NoneType"),
        (rebuilt(storage(BLOB), integer(-1), items(integer(6)), items(integer(1)), FALSE, NONE), "at offset -1"),
        (stream(tensor(BLOB, offset=1, size=(6,))), "reaches to element 6 of a storage of 6"),
        (stream(tensor(BLOB, size=(2, 3), stride=(4, 1))), "reaches to element 6 of a storage of 6"),
        (stream(tensor(BLOB, size=(2**31 - 1,) * 3, stride=(0, 0, 0))), "repeats its elements without end"),
        (stream(tensor(BLOB, size=(2**20, 2**20), stride=(0, 0))), "more bytes than the limit"),
        (stream(run("torch._utils", "_rebuild_parameter", NONE, FALSE, NONE)), "_rebuild_parameter takes"),
        (stream(run("torch._utils", "_rebuild_parameter")), "_rebuild_parameter takes"),
        (
            stream(run("torch._tensor", "_rebuild_from_type_v2", name("os", "system"), NONE, items(), NONE)),
            "_rebuild_from_type_v2 takes",
        ),
        (stream(run("torch._tensor", "_rebuild_from_type_v2", NONE, NONE, NONE, NONE)), "_rebuild_from_type_v2 takes"),
        (stream(run("torch._tensor", "_rebuild_from_type_v2")), "_rebuild_from_type_v2 takes"),
        (stream(run("torch._tensor", "_rebuild_from_type_v2", name("a", "b"), NONE, NONE, NONE)), "_rebuild_from_type_v2 takes"),
        (stream(run("torch", "Size")), "torch.Size takes a tuple"),
        (stream(run("torch", "Size", NONE)), "a shape is a tuple"),
        (stream(run("torch", "Size", items(NONE))), "NoneType in a shape"),
    ],
)
def test_what_does_not_fit_is_refused(data: bytes, why: str) -> None:
    refused(data, why)


def test_streams_do_not_nest_and_cost_operations() -> None:
    inner = stream(tensor(BLOB), protocol=2)
    refused(stream(tensor(torch_blob(magic=inner))), "its magic number or protocol is wrong")
    refused(stream(tensor(BLOB)), "more operations", operations=30)
    blobs = [torch_blob(data=bytes([value]) * 8) for value in range(20)]
    refused(stream(EMPTY_LIST, MARK, *map(tensor, blobs), b"e"), "more objects", objects=200)


def test_a_storage_is_compared_only_so_often() -> None:
    first, second = torch_blob(count=2**16, data=bytes(2**18)), torch_blob(count=2**16, data=b"\x01" * 2**18)
    load = name("torch.storage", "_load_from_bytes")
    uses = b"".join(call(b"h\x02", b"h" + bytes([index % 2])) for index in range(12))
    body = stream(EMPTY_LIST, MARK, raw(first), MEMOIZE, raw(second), MEMOIZE, load, MEMOIZE, uses, b"e")
    refused(body, "looked at again and again")


def test_our_stream_is_read_by_us() -> None:
    for dtype in ("f2", "f4", "f8", "i1", "u1", "i2", "i4", "i8", "b1"):
        values = (np.arange(6) % 2).astype(dtype).reshape(2, 3)
        back = decode(b"".join(encode(Tensor(values))))
        assert back.dtype == values.dtype and np.array_equal(back, values)
    assert decode(b"".join(encode(Tensor(np.zeros((0, 3), "f4"))))).shape == (0, 3)
    assert decode(b"".join(encode(Tensor(np.array(2.5, ">f8"))))) == 2.5
    transposed = np.arange(6, dtype="f4").reshape(2, 3).T
    assert np.array_equal(decode(b"".join(encode(Tensor(transposed)))), transposed)


def test_a_row_carries_itself_and_nothing_else() -> None:
    """Real torch sends the whole base with each row; 300 rows of 32 would pass the 4 MiB a stock LeRobot client receives."""
    chunk = np.zeros((300, 32), np.float32)
    size = sum(map(len, encode([Tensor(row) for row in chunk])))
    assert size < 300 * (32 * 4 + 400) < 4 * 2**20


@pytest.mark.parametrize("dtype", ["u2", "c8", "U3", "O"])
def test_dtypes_torch_does_not_have_are_ours_to_avoid(dtype: str) -> None:
    with pytest.raises(LocalProtocolError, match=r"cannot be written|torch tensors are written from"):
        encode(Tensor(np.zeros(2, dtype)))


REAL = """
import json, pickle, sys, warnings
warnings.simplefilter("error")
import torch
values = pickle.loads(sys.stdin.buffer.read())
tensors = values["tensors"]
assert all(type(tensor) is torch.Tensor and tensor.is_contiguous() for tensor in tensors)
assert not any(tensor.requires_grad for tensor in tensors)
(tensors[0] + 1).sum().item(), torch.stack(values["rows"]).numpy()
print(json.dumps([[str(tensor.dtype), list(tensor.shape), tensor.tolist()] for tensor in tensors]))
"""


def real_torch() -> str:
    """An interpreter with torch: ACTLINK_TORCH_PYTHON, or this one."""
    candidates = [os.environ.get("ACTLINK_TORCH_PYTHON", ""), sys.executable]
    for candidate in filter(None, candidates):
        if subprocess.run([candidate, "-c", "import torch"], capture_output=True, check=False).returncode == 0:
            return candidate
    pytest.skip(
        "no torch here: what real torch makes of our tensors is NOT TESTED; set ACTLINK_TORCH_PYTHON to a Python that has it"
    )


def test_real_torch_builds_real_tensors() -> None:
    arrays = [(np.arange(6) % 2).astype(dtype).reshape(2, 3) for dtype in ("f2", "f4", "f8", "i1", "u1", "i2", "i4", "i8", "b1")]
    value = {"tensors": [Tensor(array) for array in arrays], "rows": [Tensor(row) for row in np.eye(4, dtype=np.float32)]}
    done = subprocess.run([real_torch(), "-c", REAL], input=b"".join(encode(value)), capture_output=True, check=False, cwd=HERE)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    names = ["float16", "float32", "float64", "int8", "uint8", "int16", "int32", "int64", "bool"]
    expected = [[f"torch.{kind}", [2, 3], array.tolist()] for kind, array in zip(names, arrays, strict=True)]
    assert __import__("json").loads(done.stdout) == expected


def test_the_blob_has_the_parts_torch_reads_in_their_order() -> None:
    """Read as torch's ``_legacy_load`` reads it, with Python's unpickler, where no torch is."""
    data = b"".join(encode(Tensor(SIX)))
    blob = data[data.index(b"\x80\x02\x8a\x0a") :]
    script = (
        "import io, pickle, struct, sys\n"
        "class Reader(pickle.Unpickler):\n"
        "    persistent_load = staticmethod(lambda saved: saved)\n"
        "    find_class = staticmethod(lambda module, name: module + '.' + name)\n"
        "file = io.BytesIO(sys.stdin.buffer.read())\n"
        "print([Reader(file).load() for _ in range(5)], struct.unpack('<q6f', file.read(32)))"
    )
    done = subprocess.run([sys.executable, "-c", script], input=blob, capture_output=True, check=True, cwd=Path(__file__).parent)
    system = "{'protocol_version': 1001, 'little_endian': True, 'type_sizes': {'short': 2, 'int': 4, 'long': 4}}"
    described = "('storage', 'torch.FloatStorage', '0', 'cpu', 6, None)"
    numbers = "(6, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0)"
    assert done.stdout.decode().strip() == f"[119547037146038801333356, 1001, {system}, {described}, ['0']] {numbers}"


def test_text_is_not_a_tensor() -> None:
    refused(stream(run("torch.storage", "_load_from_bytes", text("x"))), "takes bytes")
