"""What sessions share: one memory account a thread, providers that passed their self-tests."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from weakref import WeakSet

import pytest

from phantom.api import shared
from phantom.config import PhantomConfig
from phantom.crypto.self_tests import SelfTestReport
from phantom.errors import ConfigError, SelfTestFailureError
from phantom.transport.session.memory import ReceiveMemory


@pytest.fixture(autouse=True)
def no_account_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "_local", threading.local())
    monkeypatch.setattr(shared, "_accounts", WeakSet())
    monkeypatch.setattr(shared, "_process", ReceiveMemory(0))


def _in_another_thread(config: PhantomConfig) -> ReceiveMemory:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(shared.process_memory, config).result()


def test_a_thread_has_one_account() -> None:
    own = shared.process_memory(PhantomConfig())
    assert shared.process_memory(PhantomConfig()) is own
    assert own.capacity == PhantomConfig().effective_recv_memory()
    assert _in_another_thread(PhantomConfig()) is not own


def test_all_accounts_together_keep_to_what_the_process_may_hold() -> None:
    own = shared.process_memory(PhantomConfig(recv_memory=12 << 20))
    assert own.capacity == 12 << 20
    others = [_in_another_thread(PhantomConfig()) for _ in range(2)]
    assert [account.capacity for account in (own, *others)] == [4 << 20] * 3
    del others
    gc.collect()
    assert shared.process_memory(PhantomConfig()).capacity == 12 << 20, "threads that are gone hold nothing"


def test_the_last_configuration_that_names_a_capacity_decides() -> None:
    for asked, holds in ((8 << 20, 8 << 20), (None, 8 << 20), (16 << 20, 16 << 20), (4 << 20, 4 << 20)):
        assert shared.process_memory(PhantomConfig(recv_memory=asked)).capacity == holds


def test_a_provider_is_tested_before_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shared.self_tested_provider(PhantomConfig()).name in ("openssl", "pqcrypto")
    assert shared.self_tested_provider(PhantomConfig(provider="openssl")).name == "openssl"

    def fails(provider: object) -> SelfTestReport:
        raise SelfTestFailureError("ML-KEM-768")

    monkeypatch.setattr(shared, "run_self_tests", fails)
    with pytest.raises(SelfTestFailureError):
        shared.self_tested_provider(PhantomConfig())


def test_a_provider_that_is_not_installed_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> object:
        raise ConfigError(f"{name} is not installed; pip install phantom[{name}]")

    monkeypatch.setattr(shared, "get_provider", absent)
    with pytest.raises(ConfigError, match="pip install"):
        shared.self_tested_provider(PhantomConfig(provider="pqcrypto"))
