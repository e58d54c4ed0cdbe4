"""What holds for all tests: how hypothesis judges examples, and that interrupts are heard."""

import signal

from hypothesis import HealthCheck, settings

# By what they show, and never by how long a busy machine took for them.
settings.register_profile(
    "patient",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("patient")

# A shell starts what runs in its background with interrupts ignored, and so would be all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
