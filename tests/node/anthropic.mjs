// What @anthropic-ai/sdk sees of a gateway, as one JSON object. Usage: node anthropic.mjs BASE_URL
import Anthropic from "@anthropic-ai/sdk";

const client = new Anthropic({ baseURL: process.argv[2], apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "Tell me about water." }];
const ask = { model: "demo", max_tokens: 30, messages };
const tools = [
  {
    name: "forecast",
    input_schema: {
      type: "object",
      properties: { city: { type: "string", maxLength: 12 }, days: { type: "integer", minimum: 0, maximum: 30 } },
      required: ["city", "days"],
    },
  },
];
const saw = {};

saw.models = [];
for await (const model of client.models.list()) saw.models.push(model.id);

const whole = await client.messages.create(ask);
saw.whole = { text: whole.content[0].text, reason: whole.stop_reason, usage: whole.usage, id: whole._request_id };

let text = "";
const stream = client.messages.stream(ask).on("text", (delta) => (text += delta));
const final = await stream.finalMessage();
saw.streamed = { text, final: final.content[0].text, reason: final.stop_reason, usage: final.usage };

saw.events = [];
for await (const event of await client.messages.create({ ...ask, stream: true })) saw.events.push(event.type);

saw.calls = [];
for (const tool_choice of [{ type: "any" }, { type: "tool", name: "forecast" }]) {
  const options = { ...ask, max_tokens: 400, tools, tool_choice: { ...tool_choice, disable_parallel_tool_use: true } };
  for (const message of [await client.messages.create(options), await client.messages.stream(options).finalMessage()]) {
    const [call] = message.content;
    saw.calls.push({ type: call.type, name: call.name, reason: message.stop_reason, keys: Object.keys(call.input) });
  }
}

saw.counted = (await client.messages.countTokens({ model: "demo", messages })).input_tokens;

try {
  await client.messages.create({ ...ask, messages: [{ role: "robot", content: "x" }] });
} catch (error) {
  saw.error = { class: error.constructor.name, status: error.status, type: error.type, body: error.error };
}

const endless = await client.messages.create({ ...ask, max_tokens: 4000, stream: true, ignore_eos: true }).withResponse();
for await (const _ of endless.data) break;
saw.cancelled = endless.request_id;
console.log(JSON.stringify(saw));
