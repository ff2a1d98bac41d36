"""A Trio program with a gateway inside. It decides who may enter, and publishes the time once a second.

Run it with `python examples/embed.py`; a client opens `ws://127.0.0.1:8001/ws/?token=tick` and subscribes to the room
`{"target": "clock"}`.
"""

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import trio

import trio_templar

CLOCK = {"target": "clock"}


async def bootstrap(request: trio_templar.ClientRequest) -> Mapping[str, Any]:
    """Return the rooms that this client may enter, in place of an API."""
    await trio.lowlevel.checkpoint()  # look into your database here
    if request.param("token") != b"tick":
        raise trio_templar.Refused(401)
    return {"user": {"id": 1}, "allowed_rooms": [CLOCK]}


async def connected(client: trio_templar.Client) -> None:
    """Print that a client was admitted."""
    await trio.lowlevel.checkpoint()
    print("connected:", client.user_id)


async def disconnected(client: trio_templar.Client) -> None:
    """Print that a client has gone, and why."""
    await trio.lowlevel.checkpoint()
    print("disconnected:", client.user_id, client.close)


async def tick(gateway: trio_templar.Gateway) -> None:
    """Publish the time until the gateway stops."""
    while not gateway.draining:
        await gateway.publish([CLOCK], {"time": time.strftime("%H:%M:%S")})
        await trio.sleep(1)


async def main(settings: trio_templar.Settings) -> None:
    """Run until `gateway.drain()` or `gateway.stop()` is called, or this is cancelled."""
    hooks = trio_templar.Hooks(connect=connected, disconnect=disconnected)
    async with trio.open_nursery() as nursery:
        serve = partial(trio_templar.serve, settings, bootstrap=bootstrap, hooks=hooks)
        gateway = await nursery.start(serve)
        print("listening on", *gateway.websocket_urls)
        nursery.start_soon(tick, gateway)


if __name__ == "__main__":
    trio.run(main, trio_templar.Settings(trigger_bind=""))  # no HTTP address: only `tick` publishes
