"""What the sessions of one process share: the receive-memory account and a provider that passed its self-tests."""

from __future__ import annotations

import threading
from weakref import WeakSet

from phantom.config import PhantomConfig
from phantom.crypto.providers import Provider, get_provider
from phantom.crypto.self_tests import run_self_tests
from phantom.transport.session.memory import ReceiveMemory

__all__ = ["process_memory", "self_tested_provider"]

_lock = threading.Lock()
_local = threading.local()
_accounts: WeakSet[ReceiveMemory] = WeakSet()
_process = ReceiveMemory(0)  # only its capacity counts: what all accounts together may hold


def process_memory(config: PhantomConfig) -> ReceiveMemory:
    """The account of this thread's loop: an even share of what the process may hold (§14.11).

    An account is not synchronised, so each loop thread has one; together they keep to the capacity. The last
    configuration that names ``recv_memory`` decides it for the process.
    """
    with _lock:
        if config.recv_memory is not None or not _process.capacity:
            _process.capacity = config.effective_recv_memory()
        memory: ReceiveMemory | None = getattr(_local, "memory", None)
        if memory is None:
            memory = _local.memory = ReceiveMemory()
            _accounts.add(memory)
        for account in _accounts:
            account.capacity = _process.capacity // len(_accounts)
    return memory


def self_tested_provider(config: PhantomConfig) -> Provider:
    """The configured provider, after its power-on self-tests passed once. Raises SelfTestFailureError, ConfigError."""
    provider = get_provider(config.provider)
    run_self_tests(provider)
    return provider
