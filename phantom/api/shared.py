"""What the sessions of one process share: the receive-memory account and a provider that passed its self-tests."""

from __future__ import annotations

import threading

from phantom.config import PhantomConfig
from phantom.crypto.providers import Provider, get_provider
from phantom.crypto.self_tests import run_self_tests
from phantom.transport.session.memory import ReceiveMemory

__all__ = ["process_memory", "self_tested_provider"]

_local = threading.local()  # an account is not synchronised: each loop thread has its own


def process_memory(config: PhantomConfig) -> ReceiveMemory:
    """The account of this thread; the smallest capacity that any configuration asked for holds (§14.11)."""
    capacity = config.effective_recv_memory()
    memory: ReceiveMemory | None = getattr(_local, "memory", None)
    if memory is None:
        memory = _local.memory = ReceiveMemory(capacity)
    elif config.recv_memory is not None:
        memory.capacity = capacity
    return memory


def self_tested_provider(config: PhantomConfig) -> Provider:
    """The configured provider, after its power-on self-tests passed once. Raises SelfTestFailureError, ConfigError."""
    provider = get_provider(config.provider)
    run_self_tests(provider)
    return provider
