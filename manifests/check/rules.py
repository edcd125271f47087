"""The alert rules as Prometheus reads them, for `promtool` and for a running system.

    python rules.py FOLDER: writes rules.yaml, live.yaml and tests.yaml there.

live.yaml is for a test that cannot wait for minutes: in `for` and in ranges each minute is a second, but for what is
shorter than 10 s then, which is 10 s in a range (Prometheus needs a few samples in it); an age of 60 s is 1 s, one of 600 s is 10 s, and a process is young for 10 s.
"""

import re
import sys
from pathlib import Path

import yaml

MONITORING = Path(__file__).resolve().parent.parent / "monitoring"
MIN_RANGE_S = 10


def groups() -> list[dict]:
    return yaml.safe_load((MONITORING / "rules.yaml").read_text())["spec"]["groups"]


def live(rule: dict) -> dict:
    seconds = lambda match: f"[{max(int(match[1]), MIN_RANGE_S)}s]"
    expr = re.sub(r"\[(\d+)m\]", seconds, rule["expr"])
    expr = expr.replace("process_start_time_seconds < 600", "process_start_time_seconds < 10")
    expr = re.sub(r"(_seconds\)? > )(60|600)$", lambda match: f"{match[1]}{int(match[2]) // 60}", expr)
    return rule | {"expr": expr} | ({"for": rule["for"].replace("m", "s")} if "for" in rule else {})


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    shortened = [group | {"rules": [live(rule) for rule in group["rules"]]} for group in groups()]
    for name, content in ("rules.yaml", groups()), ("live.yaml", shortened):
        (folder / name).write_text(yaml.safe_dump({"groups": content}, sort_keys=False))
    tests = yaml.safe_load((Path(__file__).parent / "rules-tests.yaml").read_text())
    named = {test["alertname"] for case in tests["tests"] for test in case["alert_rule_test"] if test.get("exp_alerts")}
    alerts = {rule["alert"] for group in groups() for rule in group["rules"]}
    if named != alerts:
        raise SystemExit(f"error: rules-tests.yaml lets fire {sorted(named)}, the rules are {sorted(alerts)}")
    (folder / "tests.yaml").write_text(yaml.safe_dump(tests, sort_keys=False))


if __name__ == "__main__":
    main()
