"""The runner: every case by every driver, the table, and the page ``docs/reference/conformance.md``.

``python -m tests.conformance.run [--driver NAME]... [--case TEXT] [--c-prefix DIR] [--write | --check]``
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.conformance.case import HERE, Case, Step, filled, load, mismatch
from tests.conformance.drivers import Driver, NotRun, Program, Setting, drivers
from tests.conformance.page import PAGE, changed, render
from tests.conformance.peer import Peer
from tests.conformance.serving import Handler

ROOT = HERE.parents[1]
TIMEOUT_MS = 10_000  # of commands that take one and whose step names none
_TIMED = frozenset(
    {
        "accept",
        "answer",
        "drain",
        "connect",
        "echo",
        "await_ready",
        "send",
        "recv",
        "send_many",
        "recv_many",
        "flush",
        "disconnect",
        "open_stream",
        "open_streams",
        "accept_stream",
        "accept_streams",
        "stream_send",
        "stream_recv",
        "stream_read",
        "fill_streams",
        "drain_streams",
        "rekey",
        "event",
    }
)
_NAMED = frozenset(
    {
        "key",
        "listen",
        "accept",
        "answer",
        "connect",
        "echo",
        "open_stream",
        "open_streams",
        "accept_stream",
        "accept_streams",
        "hostile",
        "relay",
    }
)
START = 30.0  # s that a driver has to say hello
_STOP = 10.0  # s that a driver has to end


class Failure(Exception):  # noqa: N818 - an outcome
    """The case does not hold; the text says at which step and why."""


class NotApplicable(Exception):  # noqa: N818 - an outcome
    """The binding cannot express the case; the text says why."""


@dataclass(frozen=True)
class Outcome:
    """How a case ended: ``pass``, ``fail``, ``n/a``, ``known`` (a known failure) or ``surprise`` (one that passed)."""

    kind: str
    why: str = ""


class Remote:
    """A driver's process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._reading = asyncio.create_task(self._read())

    def start(self, command: dict[str, Any]) -> tuple[int, asyncio.Future[dict[str, Any]]]:
        """Sends a command; its number and its answer to come."""
        number = next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        assert self._process.stdin is not None
        if self._reading.done():
            self._lose()
        else:
            self._process.stdin.write(json.dumps({"id": number, **command}).encode() + b"\n")
        return number, answer

    async def close(self) -> None:
        """Ends the process by ending its input, and by its id if it does not listen."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), _STOP)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        await self._reading

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            try:
                answer = json.loads(line)
                waiting = self._waiting.pop(answer["id"], None)
            except (ValueError, KeyError, TypeError):
                print(f"no answer of a driver: {line[:200]!r}", file=sys.stderr)
                continue
            if waiting is not None and not waiting.done():
                waiting.set_result(answer)
        self._lose()

    def _lose(self) -> None:
        lost, self._waiting = self._waiting, {}
        for waiting in lost.values():
            if not waiting.done():
                waiting.set_result({"error": {"code": 0, "message": "the driver ended"}})


class Local:
    """The peer, spoken to as a driver is."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self._numbers = itertools.count(1)
        self._tasks: dict[int, asyncio.Task[dict[str, Any]]] = {}

    def start(self, command: dict[str, Any]) -> tuple[int, asyncio.Future[dict[str, Any]]]:
        """As of a process."""
        number = next(self._numbers)
        if command["do"] == "cancel":
            self._tasks[command["command"]].cancel()
            done = asyncio.get_running_loop().create_future()
            done.set_result({"result": {}})
            return number, done
        task = self._tasks[number] = asyncio.create_task(self.handler.run(command))
        return number, task


class Player:
    """Plays one case."""

    def __init__(self, driver: Remote, peer: Local) -> None:
        self._ends = {False: driver, True: peer}
        self._started: dict[str, tuple[Step, int, asyncio.Future[dict[str, Any]]]] = {}
        self._results: dict[str, dict[str, Any]] = {}
        self._succeeded: set[str] = set()

    async def play(self, case: Case) -> None:
        """Raises Failure or NotApplicable unless the case holds."""
        for number, step in enumerate(case.steps, 1):
            where = f"step {number}, {'peer.' if step.on_peer else ''}{step.command}"
            try:
                await self._step(step)
            except Failure as failure:
                raise Failure(f"{where}: {failure}") from None
            except KeyError as missing:
                raise Failure(f"{where}: no earlier result {missing}") from None

    async def _step(self, step: Step) -> None:
        if step.unless in self._succeeded:
            return
        if step.command == "finish":
            begun, _, answer = self._started[step.arguments]
            await self._check(step if step.expect or step.error is not None else begun, answer, begun)
            return
        if step.command == "cancel":
            begun, number, _ = self._started[step.arguments]
            _, answer = self._ends[begun.on_peer].start({"do": "cancel", "command": number})
            await self._check(step, answer, step)
            return
        command = {"do": step.command, **filled(step.arguments, self._results)}
        if step.command in _TIMED:
            command.setdefault("timeout_ms", TIMEOUT_MS)
        if step.command in _NAMED:
            command["name"] = step.name
        end = time.monotonic() + step.deadline
        while True:
            number, answer = self._ends[step.on_peer].start(command)
            if step.start:
                self._started[step.name] = step, number, answer
                return
            try:
                await self._check(step, answer, step)
                return
            except Failure:
                if not step.until or time.monotonic() > end:
                    raise

    async def _check(self, wanted: Step, future: asyncio.Future[dict[str, Any]], begun: Step) -> None:
        try:
            answer = await asyncio.wait_for(asyncio.shield(future), wanted.deadline)
        except TimeoutError:
            raise Failure(f"no answer within {wanted.deadline:g} s") from None
        if "missing" in answer:
            if begun.on_peer:
                raise Failure(f"the peer says: {answer['missing']}")
            raise NotApplicable(answer["missing"])
        if "error" in answer:
            self._check_error(wanted, answer["error"])
            return
        if wanted.error is not None and not wanted.optional:
            raise Failure(f"it succeeded, expected error {wanted.error}")
        result = answer["result"]
        if begun.name:
            self._results[begun.name] = result
            self._succeeded.add(begun.name)
        if wanted.expect is not None and begun.command == "info" and (unsaid := set(wanted.expect) - set(result)):
            raise NotApplicable(f"it does not tell {', '.join(sorted(unsaid))}")
        if wanted.expect is not None and (wrong := mismatch(filled(dict(wanted.expect), self._results), result)):
            raise Failure(wrong)

    def _check_error(self, wanted: Step, error: dict[str, Any]) -> None:
        if wanted.error is None:
            raise Failure(f"error {error['code']}: {error.get('message', '')}")
        if error["code"] != wanted.error:
            raise Failure(f"error {error['code']} ({error.get('message', '')}), expected error {wanted.error}")
        if wanted.peer_code is not None and error.get("peer_code") != wanted.peer_code:
            raise Failure(f"the peer's code is {error.get('peer_code')}, expected {wanted.peer_code}")
        if wanted.reset_code is not None and error.get("reset_code") != wanted.reset_code:
            raise Failure(f"the code of the reset is {error.get('reset_code')}, expected {wanted.reset_code}")


@asynccontextmanager
async def running(program: Program) -> AsyncIterator[Remote]:
    """The process of a driver, until the block ends."""
    process = await asyncio.create_subprocess_exec(
        *program.arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 20,
        cwd=ROOT,
        env={**os.environ, **program.environment},
    )
    remote = Remote(process)
    try:
        yield remote
    finally:
        await remote.close()


async def judge(driver: Driver, cases: list[Case], setting: Setting, known: dict[str, str]) -> dict[str, Outcome]:
    """All cases by one driver; NotRun if it cannot run here."""
    outcomes: dict[str, Outcome] = {}
    peer = Peer()
    async with driver.program(setting) as program:
        async with running(program) as remote:
            about = await _hello(remote)
            for case in cases:
                if lacking := _lacking(case, about):
                    outcomes[case.name] = _weighed(Outcome("n/a", lacking), known.get(case.name))
                    continue
                outcomes[case.name] = _weighed(await _one(remote, peer, case), known.get(case.name))
    return outcomes


async def _hello(remote: Remote) -> dict[str, Any]:
    _, answer = remote.start({"do": "hello"})
    return (await asyncio.wait_for(answer, START))["result"]


def _lacking(case: Case, about: dict[str, Any]) -> str:
    """Why a driver that names its commands cannot play a case; empty if it may be able to."""
    known = about.get("commands")
    needed = {step.command for step in case.steps if not step.on_peer and step.command != "finish"}
    return about["lacking"] if known is not None and needed - set(known.split()) else ""


async def _one(remote: Remote, peer: Peer, case: Case) -> Outcome:
    local = Local(peer)
    try:
        await Player(remote, local).play(case)
        return Outcome("pass")
    except NotApplicable as why:
        return Outcome("n/a", str(why))
    except Failure as why:
        return Outcome("fail", str(why))
    finally:
        for end in (remote, local):
            _, answer = end.start({"do": "reset"})
            await asyncio.wait([answer], timeout=_STOP)
        for task in local._tasks.values():
            task.cancel()


def _weighed(outcome: Outcome, reason: str | None) -> Outcome:
    if reason is None:
        return outcome
    if outcome.kind == "fail":
        return Outcome("known", reason)
    return Outcome("surprise", f"it is listed as a known failure and came out as {outcome.kind}; take it off the list")


def known_failures() -> dict[str, dict[str, str]]:
    """Driver -> case -> reason, from ``known-failures.yaml``."""
    return yaml.safe_load((HERE / "known-failures.yaml").read_text("utf-8")) or {}


def run_driver(driver: Driver, cases: list[Case], c_prefix: Path | None) -> dict[str, Outcome]:
    """All cases by one driver, in a loop of its own."""
    with tempfile.TemporaryDirectory(prefix="phantom-conformance-") as folder:
        known = known_failures().get(driver.name, {})
        return asyncio.run(judge(driver, cases, Setting(Path(folder), c_prefix), known))


def main(arguments: list[str] | None = None) -> int:
    """Runs, prints, and with ``--write`` writes the page. 0 if everything is as it should be."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.run", description=__doc__)
    available = drivers()
    parser.add_argument("--driver", action="append", choices=list(available), help="only this one; repeatable")
    parser.add_argument("--case", default="", help="only cases whose name has this text")
    parser.add_argument(
        "--c-prefix", type=Path, default=os.environ.get("PHANTOM_C_PREFIX"), help="what `make c PREFIX=DIR` made"
    )
    parser.add_argument("--write", action="store_true", help=f"write the results into {PAGE.relative_to(ROOT)}")
    parser.add_argument("--check", action="store_true", help="fail if that page is not what this run found")
    options = parser.parse_args(arguments)
    cases = [case for case in load() if options.case in case.name]
    results: dict[str, dict[str, Outcome]] = {}
    bad = 0
    for name in options.driver or available:
        begun = time.monotonic()
        try:
            results[name] = run_driver(available[name], cases, options.c_prefix and Path(options.c_prefix).absolute())
        except NotRun as why:
            print(f"{name}: not run: {why}")
            bad += bool(options.driver)
            continue
        kinds = [outcome.kind for outcome in results[name].values()]
        counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in ("pass", "known", "n/a", "fail", "surprise"))
        print(f"{name}: {counts} in {time.monotonic() - begun:.1f} s")
        for case, outcome in results[name].items():
            if outcome.kind in ("fail", "surprise"):
                bad += 1
                print(f"  {outcome.kind}: {case}: {outcome.why}")
    if options.write and not options.case:
        PAGE.write_text(render(cases, available, results, PAGE.read_text("utf-8") if PAGE.exists() else ""), "utf-8")
    elif not options.case and (what := changed(cases, available, results)):
        print(what)
        bad += options.check
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
