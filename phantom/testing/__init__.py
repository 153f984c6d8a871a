"""Testing tools for users of Phantom: in-memory legs and sessions, the virtual clock, the vector runner."""

from phantom.runtime.simulated import SimulatedRuntime
from phantom.testing.clock import DeadlockError, VirtualClockLoop, run_virtual
from phantom.testing.memory_leg import MemoryLeg, memory_leg_pair
from phantom.testing.sessions import SessionPair, memory_listener, session_pair

__all__ = [
    "DeadlockError",
    "MemoryLeg",
    "SessionPair",
    "SimulatedRuntime",
    "VirtualClockLoop",
    "memory_leg_pair",
    "memory_listener",
    "run_virtual",
    "session_pair",
]
