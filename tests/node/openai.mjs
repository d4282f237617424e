// What openai-node sees of a gateway, as one JSON object. Usage: node openai.mjs BASE_URL
import { performance } from "node:perf_hooks";
import OpenAI from "openai";
import { zodFunction, zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "Tell me about water." }];
const ask = { model: "demo", messages, max_tokens: 30, seed: 5, temperature: 0.8 };
const Forecast = z.object({ days: z.number().int().min(0).max(30), sky: z.enum(["clear", "cloudy"]) });
const long = { ...ask, max_tokens: 600 };
const saw = {};

saw.models = [];
for await (const model of client.models.list()) saw.models.push(model.id);
saw.model = (await client.models.retrieve("demo")).id;

const whole = await client.chat.completions.create(ask);
saw.whole = whole.choices[0].message.content;
saw.usage = whole.usage;
saw.requestId = whole._request_id;

let streamed = "";
let finishedAt;
const stream = await client.chat.completions.create({ ...ask, stream: true });
for await (const chunk of stream) {
  streamed += chunk.choices[0].delta.content ?? "";
  if (chunk.choices[0].finish_reason) finishedAt = performance.now();
}
saw.streamed = streamed;
saw.endAfterFinishMs = performance.now() - finishedAt;

const helper = client.chat.completions.stream({ ...ask, stream_options: { include_usage: true } });
saw.helped = await helper.finalContent();
saw.helpedUsage = await helper.totalUsage();
saw.helpedRole = (await helper.finalMessage()).role;

const parsed = await client.chat.completions.parse({ ...long, response_format: zodResponseFormat(Forecast, "forecast") });
saw.parsed = Forecast.safeParse(parsed.choices[0].message.parsed).success;

const tools = [zodFunction({ name: "forecast", parameters: Forecast })];
const named = { type: "function", function: { name: "forecast" } };
saw.calls = {};
for (const [kind, tool_choice] of [["required", "required"], ["named", named]]) {
  const options = { ...long, tools, tool_choice, parallel_tool_calls: false };
  const answer = await client.chat.completions.parse(options);
  const final = await client.chat.completions.stream(options).finalChatCompletion();
  saw.calls[kind] = [answer, final].map(({ choices: [choice] }) => ({
    reason: choice.finish_reason,
    name: choice.message.tool_calls[0].function.name,
    valid: Forecast.safeParse(choice.message.tool_calls[0].function.parsed_arguments).success,
  }));
}

saw.ran = 0;
const runner = client.chat.completions.runTools(
  {
    ...long,
    tool_choice: named,
    tools: [{ type: "function", function: { name: "forecast", parameters: tools[0].function.parameters, parse: JSON.parse,
      function: () => { saw.ran += 1; return "rain"; } } }],
  },
);
await runner.done();

const vectors = await client.embeddings.create({ model: "demo", input: ["water", "a class"] });
const numbers = await client.embeddings.create({ model: "demo", input: ["water", "a class"], encoding_format: "float" });
saw.lengths = vectors.data.map(({ embedding }) => Math.hypot(...embedding));
saw.difference = Math.max(...vectors.data[1].embedding.map((x, i) => Math.abs(x - numbers.data[1].embedding[i])));

const input = { model: "demo", input: "Tell me about water.", max_output_tokens: 600 };
const short = { ...input, max_output_tokens: 20, temperature: 0 };
saw.response = (await client.responses.create(short)).output_text;
const events = client.responses.stream(short);
saw.responseEvents = [];
for await (const event of events) saw.responseEvents.push(event.type);
saw.responseStreamed = (await events.finalResponse()).output_text;
const formed = await client.responses.parse({ ...input, text: { format: zodTextFormat(Forecast, "forecast") } });
saw.responseParsed = Forecast.safeParse(formed.output_parsed).success;

saw.errors = {};
for (const [name, change] of [["model", { model: "nope" }], ["field", { temperature: 3 }]]) {
  try {
    await client.chat.completions.create({ ...ask, ...change });
  } catch (error) {
    saw.errors[name] = { class: error.constructor.name, status: error.status, code: error.code, param: error.param };
  }
}

const endless = await client.chat.completions.create({ ...ask, stream: true, max_tokens: 4000, ignore_eos: true }).withResponse();
for await (const _ of endless.data) break;
saw.cancelled = endless.request_id;
console.log(JSON.stringify(saw));
