"""The values behind ``tests/data/pickle/goldens.jsonl.xz``, and what a value is, written as text. Runs on Python 3.6 and newer.

``python golden_pickle_values.py [torch]`` pickles every value at protocols 2 to 5 with the numpy (and torch) of the interpreter
that runs it and prints one JSON line each: case, protocol, the pickle in base64, and the SHA-256 of ``described`` of what that very
interpreter reads back. ``scripts/make_golden_pickles.py`` runs it in many interpreters.
"""

import base64
import collections
import enum
import hashlib
import json
import pickle
import sys
import types

import numpy as np

DTYPES = ("b1", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8")
UNREADABLE = ("torch uint16", "torch uint32", "torch on cuda")
"""What torch writes and cannot read back: in this stream it knows no dtypes without a storage class, and here is no card."""
RECORDS = {
    "benchmark.base": ("MetaObs", "MetaAction"),
    "lerobot.async_inference.helpers": ("TimedObservation", "TimedAction", "RemotePolicyConfig"),
    "lerobot.scripts.server.helpers": ("TimedObservation", "TimedAction", "RemotePolicyConfig"),
    "lerobot.configs.types": ("PolicyFeature",),
}


def described(value):
    """The value as text that is equal exactly where two values are equal bit for bit; peers' objects and our records alike."""
    kind = type(value)
    if isinstance(value, (np.ndarray, np.generic)):
        return _described_array(value)
    if isinstance(value, np.dtype):
        return "dtype " + value.str
    if kind is float:
        return value.hex()
    if kind in (bytes, bytearray):
        return "bytes " + value.hex()
    if isinstance(value, dict):
        return "{" + ", ".join(described(key) + ": " + described(item) for key, item in value.items()) + "}"
    if kind in (list, tuple):
        return str(kind.__name__) + "(" + ", ".join(described(item) for item in value) + ")"
    if value is None or kind in (bool, int, str):
        return repr(value)
    return _described_object(value)


def _described_array(value):
    array = np.asarray(value)
    form = "scalar" if isinstance(value, np.generic) else "array"
    order = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
    if array.dtype == object:
        data = ", ".join(described(item) for item in array.ravel().tolist())
    else:
        data = array.tobytes().hex()
    return " ".join((form, array.dtype.str, repr(array.shape), order, data))


def _described_object(value):
    if hasattr(value, "untyped_storage"):  # a torch tensor
        return _described_array((value.float() if str(value.dtype) == "torch.bfloat16" else value).detach().numpy())
    if isinstance(value, enum.Enum):
        return f"record {_class_of(value)} {described((value.value,))} None"
    if hasattr(value, "args") and hasattr(value, "state"):  # a Record
        return f"record {value.module}.{value.name} {described(value.args)} {described(value.state)}"
    return f"record {_class_of(value)} tuple() {described(vars(value))}"


def _class_of(value):
    return type(value).__module__ + "." + type(value).__name__


def stand_ins():
    """Importable classes of the peers' names: plain objects with a ``__dict__``, pickled as their dataclasses are."""

    def fill(self, **fields):
        self.__dict__.update(fields)

    for module_name, classes in RECORDS.items():
        parts = module_name.split(".")
        for end in range(1, len(parts) + 1):
            sys.modules.setdefault(".".join(parts[:end]), types.ModuleType(".".join(parts[:end])))
        for name in classes:
            cls = type(name, (), {"__init__": fill, "__module__": module_name})
            setattr(sys.modules[module_name], name, cls)
    feature = enum.Enum("FeatureType", {"STATE": "STATE", "VISUAL": "VISUAL"}, module="lerobot.configs.types")
    sys.modules["lerobot.configs.types"].FeatureType = feature


def numbers(dtype, shape):
    count = int(np.prod(shape))
    return (np.arange(count) % (2 if dtype == "b1" else 100)).astype(dtype).reshape(shape)


def array_cases():
    for dtype in DTYPES:
        yield dtype + " matrix", numbers(dtype, (3, 4))
        yield dtype + " fortran", np.asfortranarray(numbers(dtype, (3, 4)))
        yield dtype + " sliced", numbers(dtype, (6, 4))[::2, 1:]
        yield dtype + " permuted", numbers(dtype, (2, 3, 4)).transpose(1, 2, 0)
        yield dtype + " zero axes", numbers(dtype, ())
        yield dtype + " empty", numbers(dtype, (0, 3))
        yield dtype + " long", numbers(dtype, (300,))
        yield dtype + " scalar", numbers(dtype, (3,))[1]
        yield dtype + " dtype", np.dtype(dtype)
        if dtype[1] != "1":
            yield dtype + " big-endian", numbers(dtype, (3, 4)).astype(">" + dtype)
            yield dtype + " big-endian dtype", np.dtype(">" + dtype)
    read_only = numbers("f4", (5,))
    read_only.flags.writeable = False
    yield "read-only", read_only
    yield "image above a frame", np.full((1, 160, 160, 3), 7, np.uint8)
    lanes = np.empty(2, dtype=object)
    lanes[:] = [{"action": numbers("f4", (7,)), "ctrl_space": "ee"}, None]
    yield "object lanes", lanes
    square = np.empty((2, 2), dtype=object)
    square[:] = [[1, "a"], [None, 2.5]]
    yield "object square", square
    yield "object fortran", np.asfortranarray(square)
    yield "object empty", np.empty((0,), dtype=object)


def plain_cases():
    yield "constants", [None, True, False]
    yield "ints", [0, 1, 255, 256, 65535, 65536, -1, -(2**31), 2**31 - 1, 2**31, 2**63, -(2**63), 2**100, -(2**127), 2**127 - 1]
    yield "floats", [0.0, -0.0, 1.5, float("nan"), float("inf"), -float("inf"), 5e-324, 1.7976931348623157e308]
    yield "texts", ["", "a", "x" * 255, "x" * 256, "é" * 200, "y" * 5000, "機械", "\U0001f916", "\n\0'\""]
    yield "bytes", [b"", b"a", bytes(range(256)), b"z" * 255, b"z" * 5000]
    yield "bytearray", bytearray(b"ab" * 200)
    yield "tuples", [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), ((1, (2, (3,))),)]
    yield "dicts", {"a": {"b": {"c": [1, 2]}}, 1: "int key", -5: None, "empty": {}}
    yield "ordered", collections.OrderedDict([("b", 1), ("a", 2)])
    yield "ordered empty", collections.OrderedDict()
    shared = ["shared", {"x": 1}]
    yield "shared", [shared, shared, (shared, shared)]
    yield "many items", list(range(2500))
    yield "many keys", {f"key {index}": index for index in range(1200)}


def record_cases():
    from benchmark.base import MetaAction, MetaObs

    image = np.full((1, 1, 3, 4, 4), 9, np.uint8)
    fields = {"state_ee": None, "state_joint": None, "state_obj": None, "depth": None, "pc": None}
    yield "MetaObs", MetaObs(state=numbers("f4", (1, 14)), image=image, raw_lang=["pick"], timestep=np.array([[3]]), **fields)
    yield "MetaObs unbatched", MetaObs(state=numbers("f8", (14,)), image=image[0], raw_lang="pick", timestep=0, **fields)
    one = {"ctrl_space": "joint", "ctrl_type": "abs", "gripper_continuous": False}
    steps = [dict(one, action=numbers("f4", (14,)) + step) for step in range(5)]
    yield "MetaAction dicts", [_lane(step) for step in steps]
    yield "MetaAction lanes", [_lane(MetaAction(**step)) for step in steps]
    yield "MetaAction list", [MetaAction(**step) for step in steps]
    yield "MetaAction failure", []
    images = {"rgb_main": np.full((4, 6, 3), 1, np.uint8), "rgb_left": np.full((4, 6, 3), 2, np.uint8)}
    yield "act request", {"qpos": numbers("f8", (17,)), "images": images, "command": "step", "step_id": 4, "timestamp": 17.25}
    yield "act list request", {"qpos": [0.5] * 17, "images": {}}
    yield "act reset", "RESET"
    yield "act reply", {"joint_positions": numbers("f8", (16,)), "action": numbers("f8", (16,)), "status": "OK"}
    yield "act bare reply", numbers("f8", (8,))
    yield "act error", {"status": "ERROR", "message": "Missing key in data: 'qpos'"}
    for module in ("lerobot.async_inference.helpers", "lerobot.scripts.server.helpers"):
        for case, value in lerobot_cases(sys.modules[module]):
            yield module + " " + case, value


def _lane(item):
    lane = np.empty(1, dtype=object)
    lane[0] = item
    return lane


def lerobot_cases(helpers):
    joints = ["shoulder_pan.pos", "shoulder_lift.pos", "elbow_flex.pos", "wrist_flex.pos", "wrist_roll.pos", "gripper.pos"]
    features = {
        "observation.state": {"dtype": "float32", "shape": (6,), "names": joints},
        "observation.images.top": {"dtype": "image", "shape": (4, 6, 3), "names": ["height", "width", "channels"]},
    }
    setup = {"policy_type": "act", "pretrained_name_or_path": "me/act", "lerobot_features": features}
    setup.update(actions_per_chunk=50, device="cpu")
    yield "setup", helpers.RemotePolicyConfig(**setup)
    yield "setup with rename_map", helpers.RemotePolicyConfig(rename_map={"a": "b"}, **setup)
    types_module = sys.modules["lerobot.configs.types"]
    feature = types_module.PolicyFeature(type=types_module.FeatureType.STATE, shape=(6,))
    yield "setup of features", helpers.RemotePolicyConfig(lerobot_features={"observation.state": feature})
    robot = dict({name: index / 7 for index, name in enumerate(joints)}, top=np.full((4, 6, 3), 5, np.uint8), task="stack")
    yield "observation", helpers.TimedObservation(timestamp=1712.5, timestep=3, observation=robot, must_go=True)
    scalars = dict({name: np.float32(index) for index, name in enumerate(joints)}, task="stack")
    yield "observation of scalars", helpers.TimedObservation(timestamp=1712.5, timestep=0, observation=scalars, must_go=False)


def torch_cases():
    import torch

    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    for dtype in (
        "float32",
        "float64",
        "float16",
        "bfloat16",
        "int64",
        "int32",
        "int16",
        "int8",
        "uint8",
        "bool",
        "uint16",
        "uint32",
    ):
        yield "torch " + dtype, base.to(getattr(torch, dtype))
    yield "torch rows of a chunk", list(base)
    yield "torch transposed", base.T
    yield "torch sliced", base[1:3, ::2]
    yield "torch repeated", torch.ones(1).expand(3, 5)
    yield "torch zero axes", torch.tensor(2.5)
    yield "torch empty", torch.zeros(0, 6)
    yield "torch parameter", torch.nn.Parameter(base.clone())
    tagged = base.clone()
    tagged.note = "kept by torch, dropped by us"
    yield "torch with attributes", tagged
    for module in ("lerobot.async_inference.helpers", "lerobot.scripts.server.helpers"):
        action = sys.modules[module].TimedAction
        chunk = [action(timestamp=1712.5 + step / 30, timestep=3 + step, action=row) for step, row in enumerate(base)]
        yield module + " chunk", chunk
        yield (
            module + " chunk of clones",
            [action(timestamp=0.0, timestep=step, action=row.clone()) for step, row in enumerate(base)],
        )


def cuda_cases():
    """As a server with its model on a graphics card writes it: the same bytes, another location."""
    import torch

    torch.serialization.register_package(0, lambda storage: "cuda:0", lambda storage, location: storage)
    yield "torch on cuda", list(torch.arange(24, dtype=torch.float32).reshape(4, 6))


def cases():
    for source in (plain_cases, array_cases, record_cases):
        yield from source()
    if "torch" in sys.argv:
        yield from torch_cases()
        yield from cuda_cases()


def main():
    stand_ins()
    for case, value in cases():
        for protocol in range(2, min(5, pickle.HIGHEST_PROTOCOL) + 1):
            data = pickle.dumps(value, protocol)
            seen = value if case in UNREADABLE else pickle.loads(data)
            digest = hashlib.sha256(described(seen).encode()).hexdigest()
            print(json.dumps({"case": case, "protocol": protocol, "digest": digest, "data": base64.b64encode(data).decode()}))


if __name__ == "__main__":
    main()
