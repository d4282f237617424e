// What the Vercel AI SDK sees of a gateway, as one JSON object. Usage: node ai.mjs BASE_URL
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany, generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

globalThis.AI_SDK_LOG_WARNINGS = false;
const provider = createOpenAICompatible({
  name: "wicketgate",
  baseURL: `${process.argv[2]}/v1`,
  apiKey: "none",
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const model = provider("demo");
const ask = { model, prompt: "Tell me about water.", maxOutputTokens: 30, seed: 5, temperature: 0.8, maxRetries: 0 };
const long = { ...ask, maxOutputTokens: 600 };
const Forecast = z.object({ days: z.number().int().min(0).max(30), sky: z.enum(["clear", "cloudy"]) });
const saw = {};

const whole = await generateText(ask);
saw.whole = { text: whole.text, reason: whole.finishReason, usage: whole.usage };

const stream = streamText(ask);
const parts = [];
let text = "";
for await (const part of stream.fullStream) {
  parts.push(part.type);
  if (part.type === "text-delta") text += part.text;
}
saw.streamed = { text, parts, reason: await stream.finishReason, usage: await stream.usage };

const object = await generateText({ ...long, output: Output.object({ schema: Forecast }) });
saw.object = Forecast.safeParse(object.output).success;
const partial = streamText({ ...long, output: Output.object({ schema: Forecast }) });
let partials = 0;
for await (const _ of partial.partialOutputStream) partials += 1;
saw.streamedObject = { partials, valid: Forecast.safeParse(await partial.output).success };

saw.ran = [];
const tools = {
  forecast: tool({
    description: "Tell the weather",
    inputSchema: Forecast,
    execute: async (input) => {
      saw.ran.push(Forecast.safeParse(input).success);
      return "rain";
    },
  }),
};
const named = { type: "tool", toolName: "forecast" };
const called = await generateText({ ...long, tools, toolChoice: "required" });
saw.required = { reason: called.finishReason, names: called.toolCalls.map(({ toolName }) => toolName) };
const streamedCall = streamText({ ...long, tools, toolChoice: named });
await streamedCall.consumeStream();
saw.named = {
  reason: await streamedCall.finishReason,
  names: (await streamedCall.toolCalls).map(({ toolName }) => toolName),
};
const steps = await generateText({
  ...long,
  tools,
  stopWhen: stepCountIs(2),
  prepareStep: ({ stepNumber }) =>
    stepNumber === 0 ? { toolChoice: named } : { toolChoice: "none", maxOutputTokens: 20 },
});
saw.steps = steps.steps.map(({ finishReason }) => finishReason);

const { embeddings } = await embedMany({ model: provider.embeddingModel("demo"), values: ["water", "a class"] });
saw.lengths = embeddings.map((embedding) => Math.hypot(...embedding));

try {
  await generateText({ ...ask, model: provider("nope") });
} catch (error) {
  saw.error = { name: error.name, status: error.statusCode, message: error.message };
}
console.log(JSON.stringify(saw));
