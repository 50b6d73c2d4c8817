"""What every client relies on, over every transport and in both protocol eras, by one and the same body."""

from __future__ import annotations

import json

import pytest
from mcp import MCPError
from mcp.types import PromptReference, ResourceTemplateReference

from tests.mcp.mcp_cases import TOOLS

pytestmark = pytest.mark.anyio


async def test_the_surface(connect):
    async with connect() as client:
        assert client.protocol_version == ("2025-11-25" if connect.era == "legacy" else "2026-07-28")
        assert client.server_info.name == "tunesmith"
        assert [name for name in TOOLS if name not in client.instructions] == [], "the road names every station"
        tools = (await client.list_tools()).tools
        assert [tool.name for tool in tools] == TOOLS, "a fixed order, so that clients can cache the list"
        for tool in tools:
            hints = tool.annotations
            assert None not in (
                hints.read_only_hint,
                hints.destructive_hint,
                hints.idempotent_hint,
                hints.open_world_hint,
            )
            assert tool.title and tool.output_schema and tool.description
            assert len(tool.input_schema["properties"]) <= 12 and tool.input_schema["additionalProperties"] is False
        assert [tool.name for tool in tools if tool.annotations.destructive_hint] == ["cancel_run"]
        templates = (await client.list_resource_templates()).resource_templates
        assert {t.uri_template for t in templates} == {"runs://{run_id}", "recipes://{name}"}
        assert [p.name for p in (await client.list_prompts()).prompts] == ["plan_finetune"]


async def test_a_call_returns_small_structured_content_and_the_same_as_text(connect):
    async with connect() as client:
        result = await client.call_tool("estimate_vram", {"model": "Qwen/Qwen2.5-7B", "method": "qlora", "gpu": "L4"})
        assert not result.is_error, result.content
        body = result.structured_content
        assert json.loads(result.content[0].text) == body
        assert 4 < body["device_peak"]["process_gib"]["value"] < 24
        assert "null" not in result.content[0].text


async def test_errors_say_what_is_wrong_all_at_once_and_what_to_do(connect):
    async with connect() as client:
        result = await client.call_tool(
            "estimate_vram", {"model": "Qwen/Qwen2.5-7B", "method": "dora", "batch_size": 0, "max_seq_length": 4096}
        )
        text = result.content[0].text
        assert result.is_error and "internal" not in text
        assert "max_seq_length: unknown argument; it is max_length here" in text
        assert "method:" in text and "'qlora'" in text and '"dora"' in text
        assert "batch_size:" in text and "got 0" in text

        result = await client.call_tool("get_run", {"run_id": "absent"})
        assert result.is_error and "not_found: No run 'absent'" in result.content[0].text

        result = await client.call_tool("estimate_vramm", {})
        assert result.is_error and "Did you mean 'estimate_vram'?" in result.content[0].text


async def test_resources_prompt_and_completion(connect):
    async with connect() as client:
        recipe = (await client.read_resource("recipes://sft-lora")).contents[0]
        assert recipe.text.startswith("# The default: LoRA") and recipe.mime_type == "application/yaml"
        with pytest.raises(MCPError) as caught:
            await client.read_resource("runs://absent")
        assert caught.value.error.code == -32602 and "No run 'absent'" in caught.value.error.message
        prompt = await client.get_prompt("plan_finetune", {"goal": "answer {in} JSON", "dataset_path": "t.csv"})
        text = prompt.messages[0].content.text
        assert "answer {in} JSON" in text and "t.csv" in text and "launch_training with dry_run=true" in text
        found = await client.complete(
            ResourceTemplateReference(uri="recipes://{name}"), {"name": "name", "value": "sft-q"}
        )
        assert found.completion.values == ["sft-qlora"]
        found = await client.complete(ResourceTemplateReference(uri="runs://{run_id}"), {"name": "run_id", "value": ""})
        assert found.completion.values == []
        found = await client.complete(PromptReference(name="plan_finetune"), {"name": "model", "value": "smol"})
        assert "smollm2-135m-instruct" in found.completion.values
