"""The server's own manual over MCP, as an extension and as plain resources; every digest is that of what is read."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, MCPError
from mcp.types import Request, RequestParams
from pydantic import BaseModel, ConfigDict

from mcp_server.server import build_server

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).resolve().parents[2]


class Anything(BaseModel):
    model_config = ConfigDict(extra="allow")


class UriParams(RequestParams):
    uri: str


async def ask(client: Client, method: str, uri: str | None = None) -> dict[str, Any]:
    params = UriParams(uri=uri) if uri else RequestParams()
    answer = await client.session.send_request(Request(method=method, params=params), Anything)
    return answer.model_dump()


async def test_skill_is_listed_with_digests_of_what_is_served():
    async with Client(build_server()) as client:
        (skill,) = (await ask(client, "skills/list"))["skills"]
        assert skill["frontmatter"]["name"] == "tunesmith" and skill["uri"] == "skill://tunesmith/SKILL.md"
        assert {Path(file["uri"]).name for file in skill["resources"]} == {"SKILL.md"} | {
            page.name for page in (ROOT / "references").glob("*.md")
        }
        for file in skill["resources"]:
            text = (await client.read_resource(file["uri"])).contents[0].text
            body = text.encode()
            assert file["digest"] == f"sha256:{hashlib.sha256(body).hexdigest()}" and file["size"] == len(body)
        assert (await ask(client, "skills/get", skill["uri"]))["skill"] == skill


async def test_folders_can_be_read_and_nothing_else():
    async with Client(build_server()) as client:
        top = (await ask(client, "resources/directory/read", "skill://tunesmith"))["resources"]
        assert {entry["name"]: entry["mimeType"] for entry in top} == {
            "SKILL.md": "text/markdown",
            "references": "inode/directory",
        }
        pages = (await ask(client, "resources/directory/read", "skill://tunesmith/references/"))["resources"]
        assert "gotchas.md" in {entry["name"] for entry in pages}
        for method, uri in [
            ("resources/directory/read", "skill://tunesmith/../.."),
            ("resources/directory/read", "file:///etc"),
            ("skills/get", "skill://other/SKILL.md"),
        ]:
            with pytest.raises(MCPError) as caught:
                await ask(client, method, uri)
            assert caught.value.error.code == -32602


async def test_clients_without_the_extension_see_the_pages_as_resources():
    async with Client(build_server(), mode="legacy") as client:
        listed = (await client.list_resources()).resources
        manual = next(r for r in listed if str(r.uri) == "skill://tunesmith/SKILL.md")
        assert manual.mime_type == "text/markdown" and "fine-tun" in manual.description
        text = (await client.read_resource(manual.uri)).contents[0].text
        assert text == (ROOT / "SKILL.md").read_text(encoding="utf-8")
