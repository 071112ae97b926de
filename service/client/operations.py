"""The operations of the API: a method, a path and a signature each. The OpenAPI document takes their names from here.

A test compares this table with the document: parameters, bodies, and the types of answers. `operation.py` makes methods of it, so
the functions have no bodies.
"""

# mypy: disable-error-code="empty-body"

from datetime import datetime
from typing import Any, Final
from uuid import UUID

from service.client import evidence_results as evidence
from service.client import requests, results
from service.client.operation import Declared, NoHead, lines, listing, operation

Id = str | UUID
Time = str | datetime  #: text is RFC 3339


class Operations:
    """Every operation of the API."""

    # Submissions

    @operation("POST", "/v1/submissions", is_repeatable=True)
    def create_submission(
        self, body: requests.SubmissionRequestJson, *, idempotency_key: str, dry_run: bool | None = None
    ) -> results.SubmissionJson | results.DryRunJson: ...
    @listing("/v1/submissions", head=NoHead)
    def submissions(self, *, state: str | None = None, limit: int | None = None) -> results.SubmissionJson: ...
    @operation("GET", "/v1/submissions/{id}")
    def submission(self, id_: Id) -> results.SubmissionJson: ...
    @operation("PATCH", "/v1/submissions/{id}", is_repeatable=True)
    def change_submission(self, id_: Id, body: requests.SubmissionChangeJson) -> results.SubmissionJson: ...
    @operation("POST", "/v1/submissions/{id}/cancel", is_repeatable=True)
    def cancel_submission(self, id_: Id) -> results.SubmissionJson: ...
    @operation("POST", "/v1/submissions/{id}/release")
    def release_submission(self, id_: Id) -> results.PageJson[results.VmJson]: ...
    @operation("POST", "/v1/imports")
    def import_vms(
        self, body: requests.ImportRequestJson, *, dry_run: bool | None = None
    ) -> results.ImportReportJson: ...

    # VMs

    @listing("/v1/vms", head=NoHead)
    def vms(
        self,
        *,
        submission_id: Id | None = None,
        state: str | None = None,
        assignment: str | None = None,
        ready: bool | None = None,
        stuck: bool | None = None,
        region: str | None = None,
        flavor: str | None = None,
        contract_id: int | None = None,
        contract_requested: int | None = None,
        name: str | None = None,
        alive: bool | None = None,
        limit: int | None = None,
    ) -> results.VmInFullJson: ...
    @operation("GET", "/v1/vms/{ref}")
    def vm(self, ref: int | str) -> results.VmInFullJson: ...
    @operation("DELETE", "/v1/vms/{ref}", is_repeatable=True)
    def delete_vm(self, ref: int | str) -> results.VmJson: ...
    @operation("POST", "/v1/vms/{ref}/release")
    def release_vm(self, ref: int | str) -> results.VmJson: ...
    @operation("GET", "/v1/vms/{ref}/cost")
    def vm_cost(self, ref: int | str) -> results.VmCostJson: ...
    @listing("/v1/vms/{ref}/timeline", head=NoHead)
    def vm_timeline(self, ref: int | str, *, limit: int | None = None) -> evidence.TimelineItemJson: ...
    @listing("/v1/orphans", head=NoHead)
    def orphans(self, *, submission_id: Id | None = None, limit: int | None = None) -> results.OrphanJson: ...
    @operation("GET", "/v1/fleet")
    def fleet(self, *, submission_id: Id | None = None) -> results.FleetNowJson: ...
    @listing("/v1/cost", head=results.CostReportHeadJson)
    def cost(
        self,
        *,
        by: str | None = None,
        since: Time | None = None,
        until: Time | None = None,
        submission_id: Id | None = None,
        limit: int | None = None,
    ) -> results.CostRowJson: ...

    # The past

    @operation("GET", "/v1/fleet/at")
    def fleet_at(
        self, *, time: Time, known_at: Time | None = None, submission_id: Id | None = None
    ) -> evidence.FleetAtJson: ...
    @listing("/v1/vms/at", head=NoHead)
    def vms_at(
        self,
        *,
        time: Time,
        known_at: Time | None = None,
        submission_id: Id | None = None,
        state: str | None = None,
        limit: int | None = None,
    ) -> evidence.VmAsOfJson: ...
    @listing("/v1/diff", head=evidence.DifferenceHeadJson)
    def diff(
        self, *, from_: Time, to: Time, submission_id: Id | None = None, limit: int | None = None
    ) -> evidence.VmDifferenceJson: ...
    @listing("/v1/off-contract", head=evidence.OffContractPeriodHeadJson)
    def off_contract(
        self,
        *,
        since: Time | None = None,
        until: Time | None = None,
        submission_id: Id | None = None,
        limit: int | None = None,
    ) -> evidence.OffContractJson: ...

    @operation("GET", "/v1/statistics")
    def statistics(
        self, *, since: Time | None = None, until: Time | None = None, submission_id: Id | None = None
    ) -> evidence.StatisticsJson: ...
    @listing("/v1/statistics/availability", head=NoHead)
    def availability(
        self,
        *,
        since: Time | None = None,
        until: Time | None = None,
        submission_id: Id | None = None,
        limit: int | None = None,
    ) -> evidence.FleetAvailabilityJson: ...

    # Evidence

    @listing("/v1/events", head=NoHead)
    def events(
        self,
        *,
        since: Time | None = None,
        until: Time | None = None,
        vm: int | str | None = None,
        submission_id: Id | None = None,
        creation_no: int | None = None,
        dead_letter: str | None = None,
        source: str | None = None,
        limit: int | None = None,
    ) -> evidence.EventJson: ...
    @operation("GET", "/v1/events/{event_id}")
    def event(self, event_id: Id) -> evidence.WholeEventJson: ...
    @operation("POST", "/v1/events/{event_id}/replay")
    def replay_event(self, event_id: Id) -> evidence.WholeEventJson: ...
    @listing("/v1/calls", head=NoHead)
    def calls(
        self,
        *,
        since: Time | None = None,
        until: Time | None = None,
        vm: int | str | None = None,
        submission_id: Id | None = None,
        operation: str | None = None,
        outcome: str | None = None,
        limit: int | None = None,
    ) -> evidence.CallJson: ...
    @listing("/v1/search", head=NoHead)
    def search(
        self,
        *,
        since: Time | None = None,
        until: Time | None = None,
        kind: str | None = None,
        submission_id: Id | None = None,
        vm: int | str | None = None,
        provider_id: int | None = None,
        name: str | None = None,
        label: str | None = None,
        address: str | None = None,
        caller: str | None = None,
        state: str | None = None,
        operation: str | None = None,
        status_code: int | None = None,
        dead_letter: str | None = None,
        text: str | None = None,
        limit: int | None = None,
    ) -> evidence.SearchResultJson: ...
    @lines("/v1/stream")
    def stream(
        self,
        *,
        tables: str | None = None,
        submission_id: Id | None = None,
        vm: int | str | None = None,
        state: str | None = None,
        source: str | None = None,
        creation_no: int | None = None,
        operation: str | None = None,
        outcome: str | None = None,
        after: str | None = None,
    ) -> bytes: ...
    @operation("GET", "/v1/log")
    def log(self) -> evidence.LogJson: ...
    @operation("GET", "/v1/export/begin")
    def begin_export(self) -> evidence.ExportJson: ...
    @lines("/v1/export")
    def export(
        self,
        *,
        table: str,
        format_: str | None = None,
        submission_id: Id | None = None,
        since: Time | None = None,
        until: Time | None = None,
        snapshot: str | None = None,
        log_id: str | None = None,
        log_size: int | None = None,
        after: str | None = None,
    ) -> bytes: ...

    # Notifications

    @listing("/v1/notifications", head=NoHead)
    def notifications(
        self,
        *,
        submission_id: Id | None = None,
        target: str | None = None,
        kind: str | None = None,
        state: str | None = None,
        limit: int | None = None,
    ) -> evidence.NotificationJson: ...
    @operation("GET", "/v1/notifications/{message_id}")
    def notification(self, message_id: Id) -> evidence.WholeNotificationJson: ...
    @operation("POST", "/v1/notifications/{message_id}/replay")
    def replay_notification(self, message_id: Id) -> evidence.WholeNotificationJson: ...
    @listing("/v1/notifications/targets", head=NoHead)
    def notification_targets(self) -> evidence.NotifyTargetJson: ...
    @operation("POST", "/v1/notifications/test")
    def test_notification(self, body: requests.TestRequestJson) -> evidence.WholeNotificationJson: ...

    # What the provider offers

    @listing("/v1/catalogue/flavors", head=NoHead)
    def flavors(
        self,
        *,
        name: str | None = None,
        region: str | None = None,
        gpu: str | None = None,
        in_stock: bool | None = None,
    ) -> results.FlavorOfferJson: ...
    @listing("/v1/catalogue/images", head=NoHead)
    def images(self, *, name: str | None = None, region: str | None = None) -> results.ImageOfferJson: ...
    @listing("/v1/catalogue/environments", head=NoHead)
    def environments(self, *, name: str | None = None, region: str | None = None) -> results.EnvironmentOfferJson: ...
    @listing("/v1/catalogue/keys", head=NoHead)
    def keys(self, *, name: str | None = None, environment: str | None = None) -> results.KeyOfferJson: ...
    @listing("/v1/catalogue/contracts", head=NoHead)
    def contracts(self, *, gpu: str | None = None) -> results.ContractOfferJson: ...
    @listing("/v1/catalogue/stock", head=NoHead)
    def stock(self, *, region: str | None = None, gpu: str | None = None) -> results.StockLevelJson: ...

    # Tokens

    @listing("/v1/tokens", head=NoHead)
    def tokens(self, *, ended: bool | None = None, limit: int | None = None) -> results.TokenJson: ...
    @operation("POST", "/v1/tokens")
    def create_token(self, body: requests.TokenRequestJson) -> results.CreatedTokenJson: ...
    @operation("PATCH", "/v1/tokens/{name}", is_repeatable=True)
    def change_tokens(self, name: str, body: requests.TokenChangeJson) -> results.PageJson[results.TokenJson]: ...
    @operation("POST", "/v1/tokens/{name}/rotate")
    def rotate_token(self, name: str, body: requests.TokenRotationJson) -> results.CreatedTokenJson: ...
    @operation("DELETE", "/v1/tokens/{name}")
    def revoke_tokens(self, name: str) -> results.PageJson[results.TokenJson]: ...

    # The process

    @operation("GET", "/metrics", is_text=True)
    def metrics(self) -> str: ...
    @operation("GET", "/openapi.json")
    def openapi(self) -> dict[str, Any]: ...
    @operation("GET", "/livez")
    def alive(self) -> results.AliveJson: ...
    @operation("GET", "/readyz", also=(503,))
    def ready(self) -> results.ReadyJson: ...


#: The name of each operation, by method and path.
NAMES: Final = {(one.method, one.path): name for name, one in vars(Operations).items() if isinstance(one, Declared)}
