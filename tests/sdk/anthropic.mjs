// The official Anthropic SDK for Node asks the relay; tests/sdk/test_node.py says where it is.
import assert from "node:assert/strict";
import Anthropic from "@anthropic-ai/sdk";

const client = new Anthropic({ apiKey: process.env.TOKEN, baseURL: process.env.RELAY, maxRetries: 0 });
const user = (content) => [{ role: "user", content }];
const greeting = { model: "demo-echo", max_tokens: 100, messages: user("Good morning") };
const weather = {
  name: "get_weather",
  description: "The weather",
  input_schema: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
};

async function models() {
  const found = [];
  for await (const model of client.models.list()) found.push(model);
  const echo = found.find((model) => model.id === "demo-echo");
  assert.equal(echo.type, "model");
  assert.equal((await client.models.retrieve("demo-echo")).id, "demo-echo");
  await assert.rejects(client.models.retrieve("claude-9"), Anthropic.NotFoundError);
}

async function messages() {
  const answer = await client.messages.create(greeting);
  assert.deepEqual([answer.type, answer.role, answer.stop_reason], ["message", "assistant", "end_turn"]);
  assert.equal(answer.content[0].text, "Good morning");
  assert.equal(answer.usage.output_tokens, 2);
  assert.match(answer._request_id, /\S/);

  const stopped = await client.messages.create({ ...greeting, stop_sequences: ["morning"] });
  assert.deepEqual([stopped.stop_reason, stopped.stop_sequence], ["stop_sequence", "morning"]);

  const stream = client.messages.stream(greeting);
  assert.equal(await stream.finalText(), "Good morning");
  assert.equal((await stream.finalMessage()).usage.output_tokens, 2);

  await assert.rejects(
    client.messages.create({ ...greeting, max_tokens: 0 }),
    (error) => error instanceof Anthropic.BadRequestError && error.error.error.type === "invalid_request_error",
  );
}

async function tools() {
  const asked = { model: "demo-tools", max_tokens: 100, tools: [weather] };
  const first = await client.messages.stream({ ...asked, messages: user("Weather in Paris?") }).finalMessage();
  assert.equal(first.stop_reason, "tool_use");
  const call = first.content.find((block) => block.type === "tool_use");
  assert.deepEqual([call.name, call.input], ["get_weather", { city: "Paris" }]);

  const second = await client.messages.create({
    ...asked,
    messages: [
      ...user("Weather in Paris?"),
      { role: "assistant", content: first.content },
      ...user([{ type: "tool_result", tool_use_id: call.id, content: "sunny" }]),
    ],
  });
  assert.match(second.content[0].text, /sunny/);
}

async function counting() {
  const { input_tokens } = await client.messages.countTokens({ model: "demo-echo", messages: user("Good morning") });
  assert.equal(input_tokens, (await client.messages.create(greeting)).usage.input_tokens);
}

const parts = { models, messages, tools, counting };
for (const [name, part] of Object.entries(parts)) {
  await part();
  console.log(`ok ${name}`);
}
