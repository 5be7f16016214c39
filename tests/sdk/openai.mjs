// The official OpenAI SDK for Node asks the relay; tests/sdk/test_node.py says where it is.
import assert from "node:assert/strict";
import OpenAI from "openai";

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

const parts = { models, chat, tools };
for (const [name, part] of Object.entries(parts)) {
  await part();
  console.log(`ok ${name}`);
}
