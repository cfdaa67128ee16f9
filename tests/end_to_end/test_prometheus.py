"""A real Prometheus scrapes two loaders that a training reads from; its tools find nothing wrong with what is shipped.

Debian's package `prometheus` has both programs.
"""

import json
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ports import free_address
from shown import got

import feedline

pytestmark = pytest.mark.engines

GRAFANA = Path(__file__).parents[2] / "deploy" / "grafana"

STARTS_WITHIN_S = 60.0


def tool(name: str) -> str:
    found = shutil.which(name)
    assert found is not None, f"{name} is not here: install Debian's package prometheus, or another with it on the PATH"
    return found


def promtool(*args: str, text: str | None = None) -> None:
    done = subprocess.run(
        [tool("promtool"), *args], input=text, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr, done.stderr


def test_a_prometheus_sees_the_job_by_one_scrape_of_either_loader(
    tmp_path: Path, hundred_and_one: Path, start_loader: Callable[..., Any]
) -> None:
    metrics = [free_address() for _ in range(2)]
    target = ",".join(
        start_loader(hundred_and_one, "--workers", "1", "--metrics-listen", address).address for address in metrics
    )
    prometheus = free_address()
    (tmp_path / "prometheus.yml").write_text(
        "global: {scrape_interval: 1s}\n"
        f"scrape_configs: [{{job_name: feedline, static_configs: [{{targets: {json.dumps(metrics)}}}]}}]\n"
    )
    command = [
        tool("prometheus"), f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data",
        f"--web.listen-address={prometheus}",
    ]  # fmt: skip
    wanted = 'feedline_trainer_batches_total{dataset="numbered",view="train",rank="1"}'
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            with feedline.connect(target, timeout_s=60) as loader:
                feed = loader.feed(batch_size=4, rank=1, world=2)
                until = time.monotonic() + STARTS_WITHIN_S
                found: list[Any] = []
                while len(found) < 2 and time.monotonic() < until:
                    for _ in feed:
                        time.sleep(0.02)
                    found = queried(prometheus, wanted)
        finally:
            process.terminate()
            process.wait(30)

    assert sorted(one["metric"]["instance"] for one in found) == sorted(metrics), (tmp_path / "log").read_text()
    for address in metrics:
        promtool("check", "metrics", text=got(address, "/metrics"))


def queried(prometheus: str, expression: str) -> list[Any]:
    try:
        answer = got(prometheus, "/api/v1/query?" + urllib.parse.urlencode({"query": expression}))
    except OSError:  # it is starting
        return []
    found: list[Any] = json.loads(answer)["data"]["result"]
    return found


def test_the_rules_that_are_shipped_are_right_and_ring_when_they_should() -> None:
    promtool("check", "config", "--syntax-only", str(GRAFANA / "prometheus.yml"))
    promtool("check", "rules", str(GRAFANA / "alerts.yml"))
    promtool("test", "rules", str(GRAFANA / "alerts_test.yml"))


def test_every_expression_of_the_dashboard_is_one_of_metrics_that_there_are(
    tmp_path: Path, hundred_and_one: Path, start_loader: Callable[..., Any]
) -> None:
    address = free_address()
    with feedline.connect(start_loader(hundred_and_one, "--metrics-listen", address).address) as loader:
        feed = loader.feed(batch_size=4)
        until = time.monotonic() + STARTS_WITHIN_S
        while "feedline_trainer_batches_total" not in got(address, "/metrics") and time.monotonic() < until:
            list(feed)
        there = set(re.findall(r"^# TYPE (\w+)", got(address, "/metrics"), re.MULTILINE))
    dashboard = json.loads((GRAFANA / "feedline.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    concrete = [one.replace("$__rate_interval", "1m").replace("$dataset", ".*") for one in expressions]
    rules = [{"record": f"a:b{number}", "expr": one} for number, one in enumerate(concrete)]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))

    promtool("check", "rules", str(tmp_path / "rules.yml"))
    used = set(re.findall(r"feedline_\w+", " ".join(expressions) + (GRAFANA / "alerts.yml").read_text()))
    assert used - there == set()
