"""Provider ``browser`` in Pyodide under Node: our own vectors and every published case that our interface can run."""

from __future__ import annotations

import json
from pathlib import Path

from tests.bindings.wasm.node import MARKS, ROOT, run

pytestmark = MARKS

VECTORS = ROOT / "tests" / "vectors"
NOT_BUILT = {"udp_kcp.json"}  # no provider has them: their legs are not in this version


def test_our_own_vectors(tmp_path: Path) -> None:
    verdicts = {report["file"]: report for report in run(tmp_path, "cases.py", "native")}
    assert verdicts.keys() == {path.name for path in (VECTORS / "native").glob("*.json")}
    assert {name for name, report in verdicts.items() if report["verdict"] != "pass"} == NOT_BUILT
    assert [report["failures"] for report in verdicts.values() if report["failures"]] == []
    assert sum(report["passed"] for report in verdicts.values()) > 700


def test_published_cases(tmp_path: Path) -> None:
    manifest = json.loads((VECTORS / "external" / "MANIFEST.json").read_text(encoding="utf-8"))["files"]
    found = run(tmp_path, "cases.py", "external")
    assert {report["file"]: report["wrong"] for report in found if report["wrong"]} == {}
    ran = {report["file"]: report["ran"] for report in found}
    # What no provider interface of ours can be asked: expanded private keys; contexts and digests of ML-DSA.
    assert manifest.keys() - ran.keys() == {
        name for name, entry in manifest.items() if entry["operation"].endswith("_expanded")
    }
    partial = {name: count for name, count in ran.items() if count != manifest[name]["cases"]}
    assert all(manifest[name]["operation"] in ("ml_dsa_sign", "ml_dsa_verify") for name in partial)
    assert all(count > 0 for count in ran.values()), ran
