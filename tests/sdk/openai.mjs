// The official OpenAI SDK for Node asks the relay; tests/sdk/test_node.py says where it is.
import assert from "node:assert/strict";
import OpenAI, { toFile } from "openai";

const client = new OpenAI({ apiKey: process.env.TOKEN, baseURL: `${process.env.RELAY}/v1`, maxRetries: 0 });
const user = (content) => [{ role: "user", content }];
const weather = {
  type: "function",
  function: {
    name: "get_weather",
    description: "The weather",
    parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
  },
};

async function models() {
  const ids = [];
  for await (const model of client.models.list()) ids.push(model.id);
  assert(ids.includes("demo-echo"), ids);
  assert.equal((await client.models.retrieve("demo-echo")).id, "demo-echo");
  await assert.rejects(client.models.retrieve("gpt-9"), OpenAI.NotFoundError);
}

async function chat() {
  const answer = await client.chat.completions.create({ model: "demo-echo", messages: user("Good morning") });
  assert.equal(answer.choices[0].message.content, "Good morning");
  assert.equal(answer.usage.completion_tokens, 2);

  const stream = client.chat.completions.stream({
    model: "demo-echo",
    messages: user("Good morning"),
    stream_options: { include_usage: true },
  });
  assert.equal(await stream.finalContent(), "Good morning");
  assert.equal((await stream.totalUsage()).completion_tokens, 2);

  await assert.rejects(
    client.chat.completions.create({ model: "demo-echo", messages: user("x"), n: 2 }),
    (error) => error instanceof OpenAI.BadRequestError && error.param === "n",
  );
}

async function tools() {
  const asked = [];
  const runner = client.chat.completions.runTools({
    model: "demo-tools",
    messages: user("Weather in Paris?"),
    tools: [
      {
        ...weather,
        function: {
          ...weather.function,
          parse: JSON.parse,
          function: ({ city }) => (asked.push(city), "sunny"),
        },
      },
    ],
    stream: true,
  });
  assert.match(await runner.finalContent(), /sunny/);
  assert.deepEqual(asked, ["Paris"]);
}

async function responses() {
  const first = await client.responses.create({ model: "demo-echo", input: "Good morning", instructions: "Be brief." });
  assert.equal(first.status, "completed");
  assert.equal(first.output_text, "Good morning");
  assert.equal(first.usage.output_tokens, 2);

  const second = client.responses.stream({
    model: "demo-echo",
    input: "And good night",
    previous_response_id: first.id,
  });
  const kinds = [];
  for await (const event of second) {
    assert.equal(event.sequence_number, kinds.length);
    kinds.push(event.type);
  }
  assert.deepEqual([kinds[0], kinds.at(-1)], ["response.created", "response.completed"]);
  const { id, output_text, usage } = await second.finalResponse();
  assert.equal(output_text, "And good night");
  assert(usage.input_tokens > first.usage.input_tokens, "it goes on from the first one");

  assert.equal((await client.responses.retrieve(id)).output_text, "And good night");
  const asked = [];
  for await (const item of client.responses.inputItems.list(id)) asked.push(item.content[0].text);
  assert.deepEqual(asked, ["And good night"]);
  await client.responses.delete(id);
  await assert.rejects(client.responses.retrieve(id), OpenAI.NotFoundError);
}

async function functions() {
  const asked = { model: "demo-tools", tools: [{ type: "function", ...weather.function, strict: false }] };
  const streamed = client.responses.stream({ ...asked, input: "Weather in Paris?" });
  const first = await streamed.finalResponse();
  const [call] = first.output;
  assert.deepEqual([call.type, call.name, JSON.parse(call.arguments)], ["function_call", "get_weather", { city: "Paris" }]);

  const second = await client.responses.create({
    ...asked,
    previous_response_id: first.id,
    input: [{ type: "function_call_output", call_id: call.call_id, output: "sunny" }],
  });
  assert.match(second.output_text, /sunny/);
}

async function images() {
  const isPng = (image) => Buffer.from(image.b64_json, "base64").subarray(1, 4).toString() === "PNG";
  const asked = { model: "demo-painter", prompt: "A lighthouse" };
  const told = await client.images.generate({ ...asked, n: 2, response_format: "url" });
  assert.equal(told.data.length, 2);
  const painted = await fetch(told.data[0].url);
  assert.equal(painted.headers.get("content-type"), "image/png");
  assert((await client.images.generate({ ...asked, response_format: "b64_json" })).data.every(isPng));

  const image = await toFile(await painted.arrayBuffer(), "lighthouse.png", { type: "image/png" });
  assert((await client.images.edit({ ...asked, image, response_format: "b64_json" })).data.every(isPng));
  await assert.rejects(
    client.images.generate({ ...asked, model: "demo-echo" }),
    (error) => error instanceof OpenAI.BadRequestError && error.code === "no_picture",
  );
}

async function files() {
  const file = await toFile(Buffer.from("%PDF-1.7 a report"), "report.pdf", { type: "application/pdf" });
  const kept = await client.files.create({ file, purpose: "user_data" });
  assert.deepEqual([kept.object, kept.filename, kept.bytes], ["file", "report.pdf", 17]);
  const listed = [];
  for await (const each of client.files.list()) listed.push(each.id);
  assert.deepEqual(listed, [kept.id]);
  assert.equal((await client.files.retrieve(kept.id)).purpose, "user_data");
  assert.equal(await (await client.files.content(kept.id)).text(), "%PDF-1.7 a report");

  const named = [{ type: "text", text: "Read this" }, { type: "file", file: { file_id: kept.id } }];
  const answer = await client.chat.completions.create({ model: "demo-echo", messages: user(named) });
  assert.match(answer.choices[0].message.content, /report\.pdf \(application\/pdf\)/);
  const response = await client.responses.create({
    model: "demo-echo",
    input: user([{ type: "input_file", file_id: kept.id }]),
    store: false,
  });
  assert.match(response.output_text, /report\.pdf/);

  assert((await client.files.delete(kept.id)).deleted);
  await assert.rejects(client.files.retrieve(kept.id), OpenAI.NotFoundError);
}

const parts = { models, chat, tools, responses, functions, images, files };
for (const [name, part] of Object.entries(parts)) {
  await part();
  console.log(`ok ${name}`);
}
