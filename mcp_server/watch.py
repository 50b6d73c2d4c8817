"""`subscriptions/listen` for runs://{run_id}: tells listening clients that a run changed, whoever changed it.

Runs live on disk and are moved by detached processes, so the server looks: once a second, six stat calls a run, and
only while somebody listens.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
from anyio import to_thread
from mcp.server.subscriptions import InMemorySubscriptionBus, ResourceUpdated, ServerEvent

from skill.errors import TunesmithError
from skill.runs import cursor
from skill.workspace import Workspace

PERIOD_S = 1.0


class RunBus(InMemorySubscriptionBus):
    """The in-process bus, which also knows whether anybody listens."""

    def __init__(self) -> None:
        super().__init__()
        self.listeners = 0
        self._seen: dict[str, str] = {}

    def subscribe(self, listener: Callable[[ServerEvent], None]) -> Callable[[], None]:
        leave = super().subscribe(listener)
        if not self.listeners:
            self._seen = cursors()  # at once: what changes before the next look counts
        self.listeners += 1
        left = False

        def once() -> None:
            nonlocal left
            if not left:
                left = True
                self.listeners -= 1
            leave()

        return once

    @asynccontextmanager
    async def lifespan(self, server: Any) -> AsyncIterator[None]:
        """Looks for changes for as long as the server lives."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch)
            try:
                yield
            finally:
                tasks.cancel_scope.cancel()

    async def _watch(self) -> None:
        while True:
            await anyio.sleep(PERIOD_S)
            if not self.listeners:
                continue
            now = await to_thread.run_sync(cursors)
            changed = [run_id for run_id, stamp in now.items() if self._seen.get(run_id) != stamp]
            self._seen = now
            for run_id in changed:
                await self.publish(ResourceUpdated(uri=f"runs://{run_id}"))


def cursors() -> dict[str, str]:
    """Run -> a text that changes whenever something of the run does."""
    try:
        ws = Workspace.open()
        return {name: cursor(ws.run(name)) for name in ws.run_names()}
    except (TunesmithError, OSError):  # no workspace, or a folder that is no run: nothing to tell
        return {}
