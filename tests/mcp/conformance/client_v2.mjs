// TypeScript SDK 2.x against the server over stdio. usage: node client_v2.mjs COMMAND ARGS...
import assert from "node:assert";
import { Client } from "@modelcontextprotocol/client";
import { StdioClientTransport } from "@modelcontextprotocol/client/stdio";

const [command, ...args] = process.argv.slice(2);
const client = new Client({ name: "tunesmith-test-v2", version: "1" });
await client.connect(new StdioClientTransport({ command, args, env: process.env }));
const { tools } = await client.listTools();
assert.equal(tools.length, 12);
const good = await client.callTool({ name: "estimate_vram", arguments: { model: "Qwen/Qwen2.5-7B", gpu: "L4" } });
assert.ok(good.structuredContent.device_peak.process_gib.value > 1); // the client has checked it against outputSchema
const runs = await client.callTool({ name: "list_runs", arguments: {} });
assert.equal(runs.structuredContent.total, 0);
const bad = await client.callTool({ name: "get_run", arguments: { run_id: "absent" } });
assert.ok(bad.isError && bad.content[0].text.includes("not_found"));
const page = await client.readResource({ uri: "skill://tunesmith/SKILL.md" });
assert.ok(page.contents[0].text.includes("recommend_approach"));
await client.close();
console.log(`client v2: ${tools.length} tools, structured result, error text, resource`);
