"""A model behind OpenAI's HTTP interface, with a page to talk to it. Needs the extra `serve` (starlette, uvicorn)."""
