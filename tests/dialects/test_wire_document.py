"""``docs/wire.md`` says what the code does: its examples are the golden vectors, its numbers and codes those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from actlink import errors
from actlink.codecs import images, msgpack_arrays
from actlink.dialects import _native_fields, _native_messages, native
from actlink.dialects._base import ServerDialect

ROOT = Path(__file__).parent.parent.parent
TEXT = (ROOT / "docs" / "wire.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["hello", "infer", "chunks"])
def test_examples_are_the_golden_vectors(name: str) -> None:
    found = re.search(rf"<!-- vector: {name} -->\n```\n(.*?)```", TEXT, re.DOTALL)
    assert found is not None
    assert bytes.fromhex(found[1]) == (ROOT / "tests" / "data" / "native" / f"{name}.bin").read_bytes()


def test_every_error_code_is_listed() -> None:
    section = TEXT[TEXT.index("## 5. Errors") : TEXT.index("## 6. Time")]
    listed = set(re.findall(r"`([a-z_]+)`", section))
    assert set(errors._tree(errors.ActlinkError)) <= listed


def test_limits_are_those_of_the_code() -> None:
    section = TEXT[TEXT.index("## 9. Limits") : TEXT.index("## 10. Versions")]
    rows = dict(re.findall(r"^\| (.+?) \| (.+?) \|$", section, re.MULTILINE))
    expected = {
        "header": msgpack_arrays.MAX_HEADER_BYTES,
        "arrays in a message": msgpack_arrays.MAX_ARRAYS,
        "axes": msgpack_arrays.MAX_DIMENSIONS,
        "bytes of an array": msgpack_arrays.MAX_ARRAY_BYTES,
        "entries": msgpack_arrays.MAX_ENTRIES,
        "lists and maps in": msgpack_arrays.MAX_CONTAINERS,
        "levels": msgpack_arrays.MAX_DEPTH,
        "string": msgpack_arrays.MAX_STRING_BYTES,
        "lanes": _native_messages.MAX_LANES,
        "frame": native.DEFAULT_MAX_FRAME_BYTES,
    }
    for start, value in expected.items():
        (told,) = [limit for what, limit in rows.items() if what.startswith(start)]
        assert re.search(rf"\b{value}\b", told), f"{start}: the document says {told}, the code {value}"


def test_numbers_in_the_text() -> None:
    flowing = " ".join(TEXT.split())
    assert TEXT.startswith(f"# The native wire, version {_native_messages.PROTOCOL}\n")
    assert f"at most {_native_fields.MAX_TOKEN} characters" in flowing
    assert f"at most {_native_fields.MAX_ERROR} characters" in flowing
    assert f"string of at most {_native_fields.MAX_NAME} characters" in flowing
    assert f"{images.LIMITS.max_pixels:,}".replace(",", " ") in flowing
    assert f"more than {images.LIMITS.max_ratio:g} decoded bytes" in flowing
    assert _native_fields.MAX_WHOLE == 2**53 - 1 and "2^53 − 1" in flowing
    assert all(f"`{name}`" in flowing for name in msgpack_arrays.DTYPES)


def test_every_scheme_and_port_is_named() -> None:
    assert issubclass(native.Server, ServerDialect)
    for scheme, port in native.DEFAULT_PORTS.items():
        assert f"native+{scheme}://" in TEXT and f":{port}" in TEXT


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((\.\.?/[^)#]+)\)", TEXT):
        assert (ROOT / "docs" / target).exists(), target
