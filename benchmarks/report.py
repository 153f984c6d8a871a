"""A run as JSON and as a Markdown page."""

from __future__ import annotations

import json
import os
import platform
import ssl
import subprocess
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.harness import TO_ANCHOR, Options, Row, number
from benchmarks.peers import native
from benchmarks.targets import Outcome, judge

_ROOT = Path(__file__).resolve().parents[1]
_PACKAGES = ("cryptography", "blake3", "uvloop", "aiofastnet", "qh3", "aioquic")


def machine() -> dict[str, Any]:
    """Where and with what the numbers were made; no names of hosts or people."""
    from cryptography.hazmat.backends.openssl import backend

    return {
        "cpu": _cpu_model(),
        "cpus": os.cpu_count(),
        "memory MiB": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "phantom": tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"],
        "packages": {name: _version(name) for name in _PACKAGES},
        "cryptography's OpenSSL": backend.openssl_version_text(),
        "ssl's OpenSSL": ssl.OPENSSL_VERSION,
        "C program's OpenSSL": native.openssl_version(),
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude=*"], cwd=_ROOT, capture_output=True, text=True
    )
    return done.stdout.strip() or "unknown"


@dataclass(slots=True)
class Run:
    """One group, measured at one time."""

    name: str
    date: str
    commit: str
    rounds: int
    seconds: float
    load_before: list[float]
    load_after: list[float]
    rows: list[Row]

    def as_dict(self) -> dict[str, Any]:
        """For the JSON file."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**plain, "rows": [row.as_dict() for row in self.rows]}

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> Run:
        """What :meth:`as_dict` gave."""
        rows = [Row(row["group"], row["case"], row["name"], row["rounds"], row["skipped"]) for row in found["rows"]]
        return cls(**{**found, "rows": rows})


def measured(name: str, measure: Callable[[Options], list[Row]], options: Options) -> Run:
    """Measures one group now."""
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    before = list(os.getloadavg())
    rows = measure(options)
    return Run(name, date, _commit(), options.rounds, options.seconds, before, list(os.getloadavg()), rows)


def write(folder: Path, runs: list[Run], order: Iterable[str]) -> list[Path]:
    """``latest.json`` and ``latest.md`` in ``folder``; their paths.

    What was measured there before on the same machine, in groups that were not measured now, stays.
    """
    data, page = folder / "latest.json", folder / "latest.md"
    where = machine()
    known = {run.name: run for run in _earlier(data, where)}
    known.update({run.name: run for run in runs})
    runs = [known[name] for name in order if name in known]
    rows = [row for run in runs for row in run.rows]
    found = {
        "command": "python -m benchmarks.run",
        "machine": where,
        "targets": [asdict(outcome) for outcome in judge(rows)],
        "runs": [run.as_dict() for run in runs],
    }
    folder.mkdir(parents=True, exist_ok=True)
    data.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    page.write_text(markdown(where, runs), encoding="utf-8")
    return [data, page]


def _earlier(data: Path, where: dict[str, Any]) -> list[Run]:
    try:
        found = json.loads(data.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [Run.from_dict(run) for run in found["runs"]] if found["machine"] == where else []


def markdown(where: dict[str, Any], runs: list[Run]) -> str:
    """The page of these runs."""
    packages = ", ".join(f"{name} {version}" for name, version in where["packages"].items())
    rows = [row for run in runs for row in run.rows]
    out = [
        "# Benchmark results",
        "",
        "Made by `python -m benchmarks.run`; how to read it: [BENCHMARKS.md](../../BENCHMARKS.md).",
        "",
        "| | |",
        "| --- | --- |",
        f"| Phantom | {where['phantom']} |",
        f"| machine | {where['cpu']}, {where['cpus']} CPUs, {where['memory MiB']} MiB |",
        f"| system | {where['system']} |",
        f"| Python | {where['python']}; {packages} |",
        f"| OpenSSL | Phantom: {where[_C]}; TLS rows: {where[_S]}; C rows: {where[_N]} |",
        "",
        "| group | date | commit | rounds | load average before, after (1 min) |",
        "| --- | --- | --- | --- | --- |",
        *(
            f"| {run.name} | {run.date} | {run.commit} | {run.rounds} of {run.seconds:g} s "
            f"| {run.load_before[0]:.2f}, {run.load_after[0]:.2f} |"
            for run in runs
        ),
        "",
        *_target_table(judge(rows)),
    ]
    seen: list[tuple[str, tuple[str, ...]]] = []
    for row in rows:
        shape = (row.group, tuple(name for name in row.values if not name.endswith(TO_ANCHOR)))
        if not row.skipped and shape not in seen:
            seen.append(shape)
    for group, quantities in seen:
        of_group = [row for row in rows if row.group == group]
        out += _table(group, quantities, [row for row in of_group if row.skipped or quantities[0] in row.values])
    skipped = [row for row in rows if row.skipped]
    if skipped:
        out += ["", "## Skipped", ""]
        out += [f"- **{row.group}, {row.case}, {row.name}**: {row.skipped}" for row in skipped]
    return "\n".join(out) + "\n"


_C, _S, _N = "cryptography's OpenSSL", "ssl's OpenSSL", "C program's OpenSSL"


def _target_table(targets: list[Outcome]) -> list[str]:
    out = ["## Targets", "", "| row | what | target | measured | |", "| --- | --- | --- | --- | --- |"]
    verdicts = {True: "met", False: "**not met**", None: "not measured"}
    return out + [
        f"| {one.number} | {one.text} | {one.bound} | {number(one.value)} | {verdicts[one.met]} |" for one in targets
    ]


def _table(group: str, quantities: tuple[str, ...], rows: list[Row]) -> list[str]:
    """Medians; in parentheses the ratio to the first row of the case; ± half the distance between the quartiles."""
    out = ["", f"## {group}", "", f"| | | {' | '.join(quantities)} |", "| --- | --- |" + " --- |" * len(quantities)]
    case = ""
    for row in rows:
        cells = [_cell(row, name) for name in quantities] if not row.skipped else ["skipped"] * len(quantities)
        out.append(f"| {row.case if row.case != case else ''} | {row.name} | {' | '.join(cells)} |")
        case = row.case
    return out


def _cell(row: Row, name: str) -> str:
    text = number(row.median(name))
    spread, ratio = row.spread(name), row.median(name + TO_ANCHOR)
    if spread is not None:
        text += f" ± {spread * 100:.0f} %"
    return text if ratio is None else f"{text} ({number(ratio)}×)"
