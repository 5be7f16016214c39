// The AI SDK: tools in several steps, streamed and not, and a typed answer, by each of its three providers.
import assert from "node:assert/strict";
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const { RELAY, TOKEN } = process.env;
const address = { baseURL: `${RELAY}/v1`, apiKey: TOKEN };
const models = {
  "@ai-sdk/openai (responses)": createOpenAI(address).responses("demo-tools"),
  "@ai-sdk/openai (chat)": createOpenAI(address).chat("demo-tools"),
  "@ai-sdk/openai-compatible": createOpenAICompatible({ ...address, name: "relay" })("demo-tools"),
  "@ai-sdk/anthropic": createAnthropic(address)("demo-tools"),
};

for (const [name, model] of Object.entries(models)) {
  const asked = [];
  const options = {
    model,
    maxRetries: 0,
    stopWhen: stepCountIs(3),
    tools: {
      get_weather: tool({
        description: "The weather in a city",
        inputSchema: z.object({ city: z.string() }),
        execute: async ({ city }) => (asked.push(city), `sunny in ${city}`),
      }),
    },
  };
  const whole = await generateText({ ...options, prompt: "What is the weather in Paris" });
  assert.match(whole.text, /sunny in Paris/);
  assert.equal(whole.steps.length, 2);

  const streamed = streamText({ ...options, prompt: "What is the weather in Rome", onError: () => {} });
  let text = "";
  for await (const part of streamed.fullStream) {
    if (part.type === "error") throw part.error;
    if (part.type === "text-delta") text += part.text;
  }
  assert.match(text, /sunny in Rome/);
  assert.deepEqual(asked, ["Paris", "Rome"]);
  console.log(`ok ${name}: a tool asked twice, once streamed`);
}
