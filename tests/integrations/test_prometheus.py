"""The alerts and the dashboard of docs/monitoring on a real Prometheus, which scrapes a guarded provider under traffic.

Prometheus is no Python package: Debian has it (``apt-get install prometheus``), and ``.ci/run`` installs it. Without it these tests are
skipped, and under CI they fail.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import httpx
import pytest
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import make_wsgi_app

from authorization_server import serve_authorization
from serving import serve_app
from tos_guard.telemetry import Telemetry
from watched import Watched

MONITORING = Path(__file__).parents[2] / "docs" / "monitoring"
RULES = MONITORING / "prometheus-rules.yml"
DASHBOARD = MONITORING / "grafana-dashboard.json"
WAIT_SECONDS = 60.0
SCRAPE = "200ms"

CONFIG = """\
global:
  scrape_interval: {scrape}
  scrape_timeout: {scrape}
  evaluation_interval: {scrape}
rule_files: ["{rules}"]
scrape_configs:
  - job_name: api
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""


def required(program: str) -> str:
    """Where a program is.

    Without it the test is skipped, or fails under CI.
    """
    found = shutil.which(program)
    if found is None:
        reason = f"{program} is absent: alerts and dashboard were NOT checked. apt-get install prometheus"
        if os.environ.get("CI", "").lower() in {"1", "true", "yes"}:
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    return found


class Scraped:
    """Serves the metrics of this process and counts who asks."""

    def __init__(self) -> None:
        self._app = make_wsgi_app()
        self._changed = threading.Condition()
        self._scrapes = 0

    def __call__(self, environ: Any, start_response: Any) -> Any:
        body = self._app(environ, start_response)
        with self._changed:
            self._scrapes += 1
            self._changed.notify_all()
        return body

    def wait(self) -> None:
        """Wait until what is shown now has been taken: the next scrape but one begins when the next is stored."""
        with self._changed:
            wanted = self._scrapes + 3
            if not self._changed.wait_for(lambda: self._scrapes >= wanted, WAIT_SECONDS):
                raise TimeoutError("Prometheus does not scrape")


class Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as it is named there
        pass


@contextmanager
def serve_metrics(scraped: Scraped) -> Iterator[int]:
    with make_server("127.0.0.1", 0, scraped, handler_class=Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, name="metrics")
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def run_prometheus(folder: Path, port: int) -> Iterator[httpx.Client]:
    """A Prometheus that scrapes *port*; gives a client of its API."""
    config = folder / "prometheus.yml"
    config.write_text(CONFIG.format(scrape=SCRAPE, rules=RULES, port=port))
    command = [
        required("prometheus"),
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'data'}",
        "--web.listen-address=127.0.0.1:0",
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    log: list[str] = []
    address = ""
    for line in process.stderr:
        log.append(line)
        if "Listening on" in line and (found := re.search(r"address=(127\.0\.0\.1:\d+)", line)):
            address = found[1]
        if "Server is ready" in line:
            break
    reader = threading.Thread(target=process.stderr.read, name="prometheus-log")  # a full pipe would stop it
    reader.start()
    try:
        if not address:
            raise RuntimeError(f"Prometheus did not start:\n{''.join(log)}")
        with httpx.Client(base_url=f"http://{address}/api/v1", timeout=30) as client:
            yield client
    finally:
        process.terminate()
        process.wait(WAIT_SECONDS)
        reader.join()
        process.stderr.close()


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Has scraped a provider before, between and after two rounds of everything that can happen to it."""
    required("prometheus")
    with ExitStack() as stack:
        server = stack.enter_context(serve_authorization())
        meters = MeterProvider([PrometheusMetricReader()])
        stack.callback(meters.shutdown)
        watched = Watched(tmp_path_factory.mktemp("provider"), Telemetry(meter_provider=meters), server)
        stack.callback(watched.close)
        scraped = Scraped()
        port = stack.enter_context(serve_metrics(scraped))
        client = stack.enter_context(run_prometheus(tmp_path_factory.mktemp("prometheus"), port))
        url, monitoring_url = stack.enter_context(serve_app(watched.app)), stack.enter_context(serve_app(watched.monitoring_app))
        for _ in range(2):
            scraped.wait()
            watched.drive(url, monitoring_url)
        scraped.wait()
        yield client


def ask(client: httpx.Client, expression: str) -> list[Any]:
    answer = client.get("/query", params={"query": expression}).json()
    assert answer["status"] == "success", (expression, answer)
    found: list[Any] = answer["data"]["result"]
    return found


def rules() -> dict[str, str]:
    """Alert → expression, from the file, as far as we write YAML."""
    blocks = re.findall(r"- alert: (\w+)\n(.*?)(?=\n      - alert:|\Z)", RULES.read_text(encoding="utf-8"), re.DOTALL)
    expressions = {}
    for alert, block in blocks:
        folded = re.search(r"expr: >-\n((?: {10,}.*\n)+)", block)
        plain = re.search(r"expr: (?!>-)(.*)\n", block)
        assert folded or plain, alert
        expressions[alert] = folded[1] if folded else plain[1] if plain else ""
    return expressions


def panels() -> list[dict[str, Any]]:
    """The panels of the dashboard, without its rows."""
    return [panel for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"] if panel["type"] != "row"]


TARGETS = [
    pytest.param(target["expr"], id=f"{panel['title']}: {target['legendFormat']}") for panel in panels() for target in panel["targets"]
]


# The alerts


def test_promtool_finds_the_rules_valid_and_their_unit_tests_pass() -> None:
    promtool = required("promtool")
    for command in (["check", "rules", "prometheus-rules.yml"], ["test", "rules", "prometheus-rules.test.yml"]):
        done = subprocess.run([promtool, *command], cwd=MONITORING, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", rules())
def test_each_alert_has_a_unit_test_in_which_it_fires_and_one_in_which_it_is_silent(alert: str) -> None:
    text = (MONITORING / "prometheus-rules.test.yml").read_text(encoding="utf-8")
    silent, _, others = text.partition("\n  - name: a response leaves unsealed")
    assert f"alertname: {alert} }}" in silent
    assert re.search(rf"alertname: {alert}\n +exp_alerts:\n", others)


def test_prometheus_evaluates_every_rule_without_an_error(prometheus: httpx.Client) -> None:
    (group,) = prometheus.get("/rules").json()["data"]["groups"]
    assert {rule["name"] for rule in group["rules"]} == set(rules())
    assert [(rule["name"], rule.get("lastError")) for rule in group["rules"] if rule["health"] != "ok"] == []


def test_the_alerts_for_what_went_wrong_fire_and_the_others_do_not(prometheus: httpx.Client) -> None:
    """The signer, the store and the limits engine failed for one request each, and the failure modes let these through."""
    alerts = prometheus.get("/alerts").json()["data"]["alerts"]
    firing = {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}
    failing = {"TosGuardSignerFailing", "TosGuardRecordsFailing", "TosGuardLimitsFailing"}
    assert firing == {"TosGuardUnsealedResponses", "TosGuardDegradedMode", *failing}
    unsealed = {alert["labels"]["tos_guard_reason"] for alert in alerts if alert["labels"]["alertname"] == "TosGuardUnsealedResponses"}
    assert unsealed == {"handler_raised", "signer", "store"}


# The dashboard


@pytest.mark.parametrize("expression", TARGETS)
def test_each_panel_of_the_dashboard_shows_something(prometheus: httpx.Client, expression: str) -> None:
    filled = expression.replace("$__rate_interval", "1m").replace("$job", "api").replace("$instance", ".+")
    assert "$" not in filled
    found = ask(prometheus, filled)
    assert found, filled
    assert any(series["value"][1] != "NaN" for series in found), (filled, found)


def test_the_lists_of_jobs_and_instances_are_filled(prometheus: httpx.Client) -> None:
    variables = {variable["name"]: variable for variable in json.loads(DASHBOARD.read_text(encoding="utf-8"))["templating"]["list"]}
    assert set(variables) == {"datasource", "job", "instance"}
    assert variables["datasource"]["type"] == "datasource"
    for name in ("job", "instance"):
        metric = re.match(r"label_values\((\w+)", variables[name]["query"]["query"])
        assert metric is not None
        assert all(series["metric"][name] for series in ask(prometheus, metric[1]))


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_a_panel_names_its_unit_its_meaning_and_no_data_source_of_ours(panel: dict[str, Any]) -> None:
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["datasource"]["uid"] == "${datasource}"
    for target in panel["targets"]:
        assert target["datasource"]["uid"] == "${datasource}"
        assert 'job=~"$job", instance=~"$instance"' in target["expr"]
        assert ("rate(" in target["expr"]) == ("[$__rate_interval]" in target["expr"])


def test_panels_have_ids_of_their_own_and_lie_beside_each_other() -> None:
    every = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    assert len({panel["id"] for panel in every}) == len(every)
    taken: set[tuple[int, int]] = set()
    for panel in every:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + right, place["y"] + down) for right in range(place["w"]) for down in range(place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


# Names


def test_every_metric_that_rules_and_dashboard_name_is_exported(prometheus: httpx.Client) -> None:
    exported = set(prometheus.get("/label/__name__/values").json()["data"])
    named = set()
    for expression in (*rules().values(), *(target["expr"] for panel in panels() for target in panel["targets"])):
        bare = re.sub(r"\{[^}]*\}|by \([^)]*\)", "", expression)
        named |= set(re.findall(r"\btos_guard_\w+", bare))
    assert len(named) > 15
    assert named - exported == set()


def test_every_metric_of_ours_is_on_the_dashboard(prometheus: httpx.Client) -> None:
    exported = {
        re.sub(r"_(bucket|sum|count)$", "", name)
        for name in prometheus.get("/label/__name__/values").json()["data"]
        if name.startswith("tos_guard_")
    }
    shown = DASHBOARD.read_text(encoding="utf-8")
    assert {name for name in exported if name not in shown} == set()
