"""The ACT inference server over ZeroMQ: ``python inference_server.py``; what can be changed stands below.

The actlink way: ``actlink serve ckpt --listen act+zmq://0.0.0.0:5555 --allow 192.168.1.0/24``.
"""

from __future__ import annotations

from constants import TASK_CONFIGS
from opening import config, fail, for_act, opened, prepare

from actlink.errors import ActlinkError, ConfigError
from actlink.serving.server import Server
from actlink.spec import Spec

# fmt: off
PORT = "5555"                      # port of the ZeroMQ socket
CKPT_DIR = './ckpt'                # directory of the checkpoint
TASK_NAME = 'astrobench_dual_arm'  # a task of constants.py

HOST = "0.0.0.0"                   # address to listen at; 127.0.0.1 = this machine only
ALLOW: tuple[str, ...] = ()        # who may connect: ("192.168.1.0/24",); nothing = networks around this machine
DEVICE = None                      # None = cuda where there is one, else cpu
# fmt: on


def cameras() -> list[str]:
    """The cameras of the task; ``ConfigError`` if there is no such task."""
    if TASK_NAME not in TASK_CONFIGS:
        raise ConfigError(f"TASK_NAME: no task {TASK_NAME!r} in constants.py; there are: {', '.join(TASK_CONFIGS)}")
    return list(TASK_CONFIGS[TASK_NAME]["camera_names"])


def check_task(spec: Spec) -> None:
    """``ConfigError`` unless the checkpoint was made for the cameras of the task."""
    wanted, found = cameras(), list(spec.cameras)
    if found != wanted:
        raise ConfigError(
            f"{CKPT_DIR}: the checkpoint has the cameras {', '.join(found) or '(none)'}; {TASK_NAME} in constants.py has "
            f"{', '.join(wanted)}"
        )


def port_of(server: Server) -> str:
    """The port really bound: PORT may be "0", any free one."""
    return server.addresses[0].rpartition(":")[2]


def main() -> int:
    prepare()
    try:
        policy = opened(CKPT_DIR, DEVICE, for_act(CKPT_DIR, {"cameras": tuple(cameras())}))
        check_task(policy.spec)
        access = config(HOST, ALLOW, 'Narrow or open it at the top of inference_server.py: ALLOW = ("192.168.1.0/24",)')
        server = Server({policy.spec.name: policy}, [f"act+zmq://{HOST}:{PORT}"], access)
        server.serve(lambda: print(f"ACT inference server listening on port {port_of(server)}: {TASK_NAME}, {CKPT_DIR}"))
    except ActlinkError as error:
        return fail(error)
    print("ACT inference server stopped")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
