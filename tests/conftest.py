"""What holds for all tests: Hypothesis draws the same examples every time and does not judge how fast the machine is; Ctrl-C works.

A shell starts what it puts in the background with SIGINT ignored, and nohup what it runs with SIGHUP ignored; so would be every
program that a test starts and interrupts.
"""

from __future__ import annotations

import signal

from hypothesis import HealthCheck, settings

settings.register_profile(
    "steady", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example]
)
settings.load_profile("steady")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
