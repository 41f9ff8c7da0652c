"""The table at the end: what each runtime makes of each clause."""

from __future__ import annotations

from collections import defaultdict

WORDS = {"pass": "pass", "differs": "differs", "unsupported": "unsupported", "fail": "FAIL"}
HEADING = "conformance with the OCI runtime specification"


class Table:
    def __init__(self) -> None:
        self.cells: dict[tuple[str, str], dict[str, tuple[str, str]]] = defaultdict(dict)

    def add(self, clause: str, test: str, runtime: str, outcome: str, reason: str) -> None:
        earlier = self.cells[clause, test].get(runtime)
        if earlier is None or earlier[0] == "pass":
            self.cells[clause, test][runtime] = (outcome, reason)

    def runtimes(self) -> list[str]:
        found: list[str] = []
        for row in self.cells.values():
            found += [name for name in row if name not in found]
        return sorted(found, key=lambda name: (not name.startswith("hutch"), name != "runc", name))

    def lines(self, *, full: bool) -> list[str]:
        """A line for each clause; below it the tests that do not pass everywhere, or all of them."""
        names = self.runtimes()
        clauses: dict[str, list[str]] = defaultdict(list)
        for clause, test in self.cells:
            clauses[clause].append(test)
        wide = 72
        out = [f"{'':{wide}}  " + " ".join(f"{name:>11}" for name in names)]
        for clause in sorted(clauses):
            rows = {test: self.cells[clause, test] for test in clauses[clause]}
            out.append(f"{clause[:wide]:{wide}}  " + " ".join(f"{_share(rows, name):>11}" for name in names))
            for test, row in rows.items():
                if full or any(row.get(name, ("pass", ""))[0] != "pass" for name in names):
                    out.append(f"  {test[: wide - 2]:{wide - 2}}  " + " ".join(f"{WORDS.get(row.get(name, ('-', ''))[0], '-'):>11}" for name in names))
        return [*out, *self._counts(names, wide)]

    def _counts(self, names: list[str], wide: int) -> list[str]:
        out = [""]
        for outcome in WORDS:
            numbers = [sum(row.get(name, ("", ""))[0] == outcome for row in self.cells.values()) for name in names]
            out.append(f"{outcome:{wide}}  " + " ".join(f"{number:>11}" for number in numbers))
        return out

    def reasons(self) -> list[str]:
        """Each reason once for each runtime, with the tests that it is of."""
        found: dict[tuple[str, str], list[str]] = defaultdict(list)
        for (_, test), row in self.cells.items():
            for name, (outcome, reason) in row.items():
                if outcome in ("differs", "unsupported"):
                    found[name, reason.removeprefix("unsupported: ")].append(test)
        return [f"{name}: {reason}: {tests[0]}" + (f" and {len(tests) - 1} more" if tests[1:] else "") for (name, reason), tests in sorted(found.items())]


def _share(rows: dict[str, dict[str, tuple[str, str]]], name: str) -> str:
    there = [row[name][0] for row in rows.values() if name in row]
    return f"{there.count('pass')}/{len(there)}" if there else "-"
