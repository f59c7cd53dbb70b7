"""/v1/load_lora_adapter and /v1/unload_lora_adapter: adapters that come and go while the server runs."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from mindformers_glm.errors import UserError
from mindformers_glm.serving.http.body import Body, flag, parse, text
from mindformers_glm.serving.http.errors import ApiError, refused, wrong
from mindformers_glm.serving.http.service import Service


def make_endpoints(service: Service) -> dict[str, Any]:
    """Both endpoints by name."""
    one_at_a_time = asyncio.Lock()

    async def load(request: Request) -> Response:
        service.check_open()
        body = Body(parse(await request.body()))
        name, path = body.need("lora_name", text), body.need("lora_path", text)
        body.refuse("load_inplace", "unload it first", False)
        body.take("base_model_name", text)
        body.finish()
        loader = service.load_adapter
        if loader is None:
            raise refused("lora_path", "this server takes no adapters")
        if not name or "\n" in name or len(name) > 200:
            raise wrong("lora_name", name, "Give a name of one line.")
        async with one_at_a_time:
            if name in service.models:
                raise ApiError(400, f"{name!r} is served already", param="lora_name", code="adapter_exists")
            try:
                served = await anyio.to_thread.run_sync(lambda: loader(name, path))
            except UserError as error:
                raise ApiError(400, str(error), param="lora_path", code="adapter_unfit") from error
            service.models[name] = served
        return PlainTextResponse(f"Success: LoRA adapter '{name}' added successfully.")

    async def unload(request: Request) -> Response:
        service.check_open()
        body = Body(parse(await request.body()))
        name = body.need("lora_name", text)
        body.take("lora_int_id", lambda value: value)
        body.take("force", flag)
        body.finish()
        served = service.models.get(name)
        if served is None or served.parent is None:
            raise ApiError(404, f"No adapter {name!r} is served", param="lora_name", code="adapter_not_found")
        del service.models[name]  # answers on their way are finished with it
        if served.adapter:
            await anyio.to_thread.run_sync(served.engine.remove_adapter, served.adapter)
        return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")

    return {"load": load, "unload": unload}
