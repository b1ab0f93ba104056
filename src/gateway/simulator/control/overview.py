"""Control calls for the platform as a whole: its addresses, and settings that can change while it runs."""

from __future__ import annotations

from typing import Any, Literal

from gateway.simulator.control.calls import Body, Calls, read
from gateway.simulator.exchange import Request
from gateway.simulator.simulator import Simulator


class SettingsBody(Body):
    """New values of settings. A setting that is left out stays as it is.

    Members of `client_config` replace those of the same name, or all members with `replace_client_config`.
    `scan_expiry_member` is `expires_in` or `expire_in`. `regions_apart` is that of `Scans`.
    """

    client_config: dict[str, Any] | None = None
    replace_client_config: bool = False
    answers_pings: bool | None = None
    rate_limits: bool | None = None
    redelivery_scale: float | None = None
    ack_seconds: float | None = None
    scan_seconds: float | None = None
    scan_interval_seconds: float | None = None
    scan_expiry_member: Literal["expires_in", "expire_in"] | None = None
    regions_apart: bool | None = None


def calls(simulator: Simulator) -> Calls:
    overview = Overview(simulator)
    return [("GET", "status", overview.status), ("PUT", "settings", overview.change_settings)]


class Overview:
    """Has one method for each call."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator

    async def status(self, _request: Request) -> object:
        return {
            "http": self._simulator.base_url,
            "lark_http": self._simulator.base_urls["lark"],
            "ws": self._simulator.world.ws_url,
            "apps": len(self._simulator.platform.apps),
            "connections": len(self._simulator.connections()),
            "client_config": self._simulator.world.client_config,
            "redelivery_scale": self._simulator.delivery.redelivery_scale,
            "ack_seconds": self._simulator.delivery.ack_seconds,
            "rate_limits": self._simulator.limits.enabled,
            "answers_pings": self._simulator.door.answers_pings,
            "scan_seconds": self._simulator.scans.seconds,
            "scan_interval_seconds": self._simulator.scans.interval,
            "scan_expiry_member": self._simulator.scans.expiry_member,
            "regions_apart": self._simulator.scans.regions_apart,
        }

    async def change_settings(self, request: Request) -> object:
        settings = read(request, SettingsBody)
        simulator = self._simulator
        if settings.client_config is not None:
            simulator.configure_client(settings.client_config, replace=settings.replace_client_config)
        if settings.answers_pings is not None:
            simulator.door.answers_pings = settings.answers_pings
        if settings.rate_limits is not None:
            simulator.limits.enabled = settings.rate_limits
        if settings.redelivery_scale is not None:
            simulator.delivery.redelivery_scale = settings.redelivery_scale
        if settings.ack_seconds is not None:
            simulator.delivery.ack_seconds = settings.ack_seconds
        self._change_scans(settings)
        return await self.status(request)

    def _change_scans(self, settings: SettingsBody) -> None:
        scans = self._simulator.scans
        if settings.scan_seconds is not None:
            scans.seconds = settings.scan_seconds
        if settings.scan_interval_seconds is not None:
            scans.interval = settings.scan_interval_seconds
        if settings.scan_expiry_member is not None:
            scans.expiry_member = settings.scan_expiry_member
        if settings.regions_apart is not None:
            scans.regions_apart = settings.regions_apart
