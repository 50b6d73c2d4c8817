"""The server ships its own manual: SKILL.md and references/ over MCP (SEP-2640, io.modelcontextprotocol/skills).

A client that knows the extension lists the skill and loads pages as it needs them; any other client can still read the
same pages as plain resources, `skill://tunesmith/SKILL.md` and `skill://tunesmith/references/…`.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from mcp import MCPError
from mcp.server.extension import Extension, MethodBinding, ResourceBinding
from mcp.server.mcpserver.resources import FileResource
from mcp.types import INVALID_PARAMS, PaginatedRequestParams, RequestParams

from skill.assets import asset

NAME = "tunesmith"  # the folder a skill lies in bears its name
ROOT = f"skill://{NAME}"
MANIFEST = f"{ROOT}/SKILL.md"
CACHE = {"ttlMs": 3_600_000, "cacheScope": "public"}  # fixed for the life of the process


class UriParams(RequestParams):
    uri: str


class DirectoryParams(PaginatedRequestParams):
    uri: str


class Manual(Extension):
    """This package's skill: its files as resources, and the methods that list and describe them."""

    identifier = "io.modelcontextprotocol/skills"

    def settings(self) -> dict[str, Any]:
        return {"directoryRead": True}

    @cached_property
    def files(self) -> dict[str, Path]:
        """URI -> file, the manifest first."""
        pages = sorted(asset("references").glob("*.md"))
        return {MANIFEST: asset("SKILL.md"), **{f"{ROOT}/references/{page.name}": page for page in pages}}

    @cached_property
    def entry(self) -> dict[str, Any]:
        """The skill as skills/list gives it: frontmatter, and every file with its digest and size in bytes."""
        frontmatter = yaml.safe_load(self.files[MANIFEST].read_text(encoding="utf-8").split("---", 2)[1])
        resources = [
            {"uri": uri, "digest": f"sha256:{hashlib.sha256(body).hexdigest()}", "size": len(body)}
            for uri, body in ((uri, path.read_bytes()) for uri, path in self.files.items())
        ]
        return {"uri": MANIFEST, "frontmatter": frontmatter, "resources": resources}

    def resources(self) -> list[ResourceBinding]:
        about = self.entry["frontmatter"]
        return [
            ResourceBinding(
                FileResource(
                    uri=uri,
                    path=path.resolve(),
                    name=about["name"] if uri == MANIFEST else path.name,
                    description=about["description"] if uri == MANIFEST else _title(path),
                    mime_type="text/markdown",
                )
            )
            for uri, path in self.files.items()
        ]

    def methods(self) -> list[MethodBinding]:
        return [
            MethodBinding("skills/list", PaginatedRequestParams, self._list),
            MethodBinding("skills/get", UriParams, self._get),
            MethodBinding("resources/directory/read", DirectoryParams, self._read_directory),
        ]

    async def _list(self, ctx: Any, params: Any) -> dict[str, Any]:
        return {"skills": [self.entry], **CACHE}

    async def _get(self, ctx: Any, params: UriParams) -> dict[str, Any]:
        if params.uri != MANIFEST:
            raise MCPError(INVALID_PARAMS, f"No skill at {params.uri[:200]}. There is {MANIFEST}.", {"uri": params.uri})
        return {"skill": self.entry, **CACHE}

    async def _read_directory(self, ctx: Any, params: DirectoryParams) -> dict[str, Any]:
        folder = params.uri.rstrip("/") + "/"
        below = [uri.removeprefix(folder) for uri in self.files if uri.startswith(folder)]
        if not below:
            raise MCPError(
                INVALID_PARAMS, f"No skill folder at {params.uri[:200]}. There is {ROOT}.", {"uri": params.uri}
            )
        children = dict.fromkeys(part.partition("/")[0] for part in below)
        return {
            "resources": [
                {
                    "uri": folder + name,
                    "name": name,
                    "mimeType": "text/markdown" if folder + name in self.files else "inode/directory",
                }
                for name in children
            ],
            **CACHE,
        }


def _title(page: Path) -> str:
    """The heading of a page."""
    return page.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
