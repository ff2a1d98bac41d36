"""The gateway of the soak: serves, and says every second what it holds, as a line of JSON on standard output."""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import trio

from trio_templar import ClientRequest, Settings, serve
from trio_templar.log import configure


async def bootstrap(request: ClientRequest) -> Mapping[str, Any]:  # noqa: ARG001  # everybody may enter
    """Let everybody into the rooms of the soak."""
    await trio.lowlevel.checkpoint()
    return {"user": {"id": 1}, "allowed_rooms": [{"room": "*"}]}


def held() -> dict[str, int]:
    """Return what a leak would let grow: memory, tasks, descriptors, timers."""
    runner = trio._core._run.GLOBAL_RUN_CONTEXT.runner  # noqa: SLF001  # no public count
    return {
        "rss_kb": int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024,
        "tasks": trio.lowlevel.current_statistics().tasks_living,
        "descriptors": len(os.listdir("/proc/self/fd")),  # noqa: PTH208  # names alone
        "timers": runner.deadlines._active,  # noqa: SLF001
    }


async def main() -> None:
    """Serve until we are ended."""
    configure("text", "error")  # who is slow is counted
    settings = Settings(
        bind=("127.0.0.1:0",),
        trigger_bind="127.0.0.1:0",
        outbox_bytes=262_144,
        slow_seconds=5.0,
        goodbye_seconds=1.0,
        room_policy=json.loads(sys.argv[1]),
    )
    async with trio.open_nursery() as nursery:

        async def run(*, task_status: trio.TaskStatus[Any]) -> None:
            await serve(settings, bootstrap=bootstrap, task_status=task_status)

        gateway = await nursery.start(run)
        print(json.dumps({"websocket": gateway.websocket_urls[0], "trigger": gateway.trigger_url}), flush=True)
        while True:
            await trio.sleep(1)
            statistics = gateway.statistics()
            told = {**held(), "connections": statistics.connections, "drops": dict(statistics.drops)}
            print(
                json.dumps({**told, "deliveries": statistics.deliveries, "conflated": statistics.conflated}), flush=True
            )


if __name__ == "__main__":
    trio.run(main)
